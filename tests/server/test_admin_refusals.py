"""What the admin API refuses: each with its status and code, and nothing has changed."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from server.answers import V1, VERSIONS, code_of

from softprompt_serve.errors import MAX_CHARS
from softprompt_serve.testing import BASE_MODEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio


async def test_a_body_over_the_limit_is_refused_while_it_streams(serve: Serve) -> None:
    async with serve(max_upload_bytes=2048) as api:
        sent = 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal sent
            yield (
                b'--x\r\ncontent-disposition: form-data; name="tensor"; filename="t"\r\n'
                b"content-type: application/octet-stream\r\n\r\n"
            )
            for _ in range(1000):
                sent += 1
                yield b"0" * 1024

        answer = await api.client.post(
            VERSIONS,
            content=chunks(),
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
        assert (answer.status_code, code_of(answer)) == (413, "upload_too_large")
        assert sent < 10


async def test_a_declared_body_over_the_limit_is_refused(serve: Serve) -> None:
    async with serve(max_upload_bytes=2048) as api:
        answer = await api.import_soft(400)
        assert (answer.status_code, code_of(answer)) == (413, "upload_too_large")


async def test_a_long_mistake_is_not_told_back_at_length(serve: Serve) -> None:
    async with serve() as api:
        long = "x" * 200_000
        for answer in (
            await api.client.post(f"{V1}/tokens", json={"name": "t", "scopes": [], long: 1}),
            await api.client.post(f"{V1}/tokens", json={"name": "t", "scopes": ["no"] * 20_000}),
            await api.client.put(f"{V1}/prompts/support/rollout", json={"arms": [{long: 1}]}),
        ):
            assert answer.status_code in {400, 422}
            assert len(answer.content) < 3 * MAX_CHARS


def pickled() -> bytes:
    blob = io.BytesIO()
    with zipfile.ZipFile(blob, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    return blob.getvalue()


BAD_UPLOADS: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing": ({}, 400, "invalid_upload"),
    "soft without a tensor": ({"data": {"kind": "soft"}}, 400, "invalid_upload"),
    "hard without a text": ({"data": {"kind": "hard"}}, 400, "invalid_upload"),
    "base with a text": ({"data": {"kind": "base", "text": "x"}}, 400, "invalid_upload"),
    "hard with a tensor": (
        {"data": {"kind": "hard", "text": "x"}, "files": {"tensor": b"x"}},
        400,
        "invalid_upload",
    ),
    "an unknown kind": ({"data": {"kind": "deep"}}, 400, "invalid_request"),
    "an empty text": ({"data": {"text": ""}}, 400, "invalid_upload"),
    "a blank text": ({"data": {"text": "  "}}, 400, "artifact_bad_text"),
    "no tensor at all": ({"files": {"tensor": b""}}, 400, "artifact_not_safetensors"),
    "no safetensors": ({"files": {"tensor": b"hello"}}, 400, "artifact_not_safetensors"),
    "a pickle": (
        {"files": {"tensor": ("adapter_model.bin", b"\x80\x04.")}},
        400,
        "artifact_not_safetensors",
    ),
    "a zipped pickle": (
        {"files": {"tensor": ("model.pt", pickled())}},
        400,
        "artifact_not_safetensors",
    ),
    "a tensor part that is a text": ({"data": {"tensor": "x"}}, 400, "invalid_request"),
    "a record that is no JSON": (
        {"data": {"text": "x", "record": "{"}},
        400,
        "invalid_record",
    ),
    "a record with an unknown field": (
        {"data": {"text": "x", "record": '{"datasett": "d"}'}},
        400,
        "invalid_record",
    ),
    "another base model's record": (
        {"data": {"text": "x", "record": '{"base_model": "another"}'}},
        400,
        "base_model_mismatch",
    ),
    "a version's name with capitals": (
        {"data": {"text": "x", "version": "V2"}},
        400,
        "invalid_request",
    ),
    "a JSON body": ({"json": {"text": "x"}}, 400, "invalid_upload"),
    "a broken multipart body": (
        {
            "content": b"--y\r\nnonsense",
            "headers": {"content-type": "multipart/form-data; boundary=x"},
        },
        400,
        "invalid_body",
    ),
    "a multipart body without a boundary": (
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        400,
        "invalid_body",
    ),
    "a record larger than a form field may be": (
        {"data": {"text": "x", "record": "x" * (2 << 20)}, "files": {"other": b""}},
        400,
        "invalid_body",
    ),
    "an actor too long": (
        {"data": {"text": "x"}, "params": {"actor": "a" * 129}},
        400,
        "invalid_request",
    ),
}


@pytest.mark.parametrize("what", BAD_UPLOADS)
async def test_a_bad_upload_is_refused_and_changes_nothing(
    serve: Serve, tmp_path: Path, what: str
) -> None:
    request, status, code = BAD_UPLOADS[what]
    async with serve() as api:
        answer = await api.client.post(VERSIONS, **request)
        assert (answer.status_code, code_of(answer)) == (status, code)
        assert answer.headers["x-softprompt-error"] == code
        assert api.service.catalogue.revision() == 0
        assert list((tmp_path / "blobs").iterdir()) == []


async def test_wrong_tensors_are_refused_and_change_nothing(
    serve: Serve, make_tensor: Callable[..., bytes]
) -> None:
    async with serve(max_virtual_tokens=4) as api:
        codes = [
            code_of(await api.client.post(VERSIONS, files={"tensor": data}))
            for data in (make_tensor(2, hidden=5), make_tensor(5), make_tensor(0))
        ]
        assert codes == [
            "artifact_wrong_hidden_size",
            "artifact_too_many_rows",
            "artifact_no_rows",
        ]
        assert api.service.catalogue.revision() == 0


BAD_CALLS: list[tuple[str, str, Any, int, str]] = [
    ("POST", f"{V1}/prompts/Support/versions", None, 400, "invalid_request"),
    ("POST", f"{V1}/prompts/{'a' * 64}/versions", None, 400, "invalid_request"),
    ("POST", f"{V1}/prompts/.hidden/versions", None, 400, "invalid_request"),
    ("GET", f"{V1}/prompts/sales", None, 404, "prompt_not_found"),
    ("GET", f"{V1}/prompts/sales/versions", None, 404, "prompt_not_found"),
    ("GET", f"{VERSIONS}/v9", None, 404, "version_not_found"),
    ("GET", f"{VERSIONS}/V1", None, 400, "invalid_request"),
    ("DELETE", f"{VERSIONS}/v9", None, 404, "version_not_found"),
    ("DELETE", f"{V1}/prompts/sales/versions/v1", None, 404, "prompt_not_found"),
    ("DELETE", f"{V1}/prompts/support/aliases/none", None, 404, "alias_not_found"),
    ("PUT", f"{V1}/prompts/support/aliases/a", {"version": "v9"}, 404, "version_not_found"),
    ("PUT", f"{V1}/prompts/sales/aliases/a", {"version": "v1"}, 404, "prompt_not_found"),
    ("PUT", f"{V1}/prompts/support/aliases/v1", {"version": "v1"}, 409, "name_taken"),
    ("PUT", f"{V1}/prompts/support/aliases/A", {"version": "v1"}, 400, "invalid_request"),
    ("PUT", f"{V1}/prompts/support/aliases/a", {"version": 1}, 400, "invalid_request"),
    ("PUT", f"{V1}/prompts/support/aliases/a", {}, 400, "invalid_request"),
    ("PUT", f"{V1}/prompts/support/aliases/a", {"version": "v1", "x": 1}, 400, "invalid_request"),
    ("PUT", f"{V1}/prompts/support/aliases/a", [], 400, "invalid_request"),
    ("PUT", f"{VERSIONS}/v1/residency", {"resident": "perhaps"}, 400, "invalid_request"),
    ("PUT", f"{VERSIONS}/v9/residency", {"resident": True}, 404, "version_not_found"),
    ("GET", f"{V1}/audit?limit=0", None, 400, "invalid_request"),
    ("GET", f"{V1}/audit?limit=1001", None, 400, "invalid_request"),
    ("GET", f"{V1}/audit?before=zero", None, 400, "invalid_request"),
    ("GET", f"{V1}/audit?before={2**63}", None, 400, "invalid_request"),
    ("GET", f"{V1}/audit?prompt=S", None, 400, "invalid_request"),
]


@pytest.mark.parametrize("call", BAD_CALLS, ids=lambda call: f"{call[0]} {call[1]} {call[2]}")
async def test_a_bad_call_is_refused_and_changes_nothing(
    serve: Serve, call: tuple[str, str, Any, int, str]
) -> None:
    method, url, body, status, code = call
    async with serve() as api:
        await api.import_text()
        answer = await api.client.request(method, url, json=body)
        assert (answer.status_code, code_of(answer)) == (status, code)
        assert api.service.catalogue.revision() == 1


async def test_a_body_that_is_no_json_is_refused(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text()
        url = f"{V1}/prompts/support/aliases/a"
        headers = {"content-type": "application/json"}
        answer = await api.client.put(url, content=b"{", headers=headers)
        assert (answer.status_code, code_of(answer)) == (400, "invalid_request")


@pytest.mark.parametrize("cut", [1, 30, 100])
async def test_an_upload_that_breaks_off_is_refused_and_changes_nothing(
    serve: Serve, make_tensor: Callable[..., bytes], cut: int
) -> None:
    parts = (
        b'--x\r\ncontent-disposition: form-data; name="text"\r\n\r\nBe brief.\r\n'
        b'--x\r\ncontent-disposition: form-data; name="tensor"; filename="t"\r\n\r\n'
    )
    body = parts + make_tensor(2) + b"\r\n--x--"
    async with serve() as api:
        before = api.service.catalogue.revision()
        for sent, status in ((body[:-cut], 400), (body, 201), (body + b"\r\nepilogue", 200)):
            answer = await api.client.post(
                VERSIONS, content=sent, headers={"content-type": "multipart/form-data; boundary=x"}
            )
            assert answer.status_code == status
            if status == 400:
                assert code_of(answer) == "invalid_body"
                assert api.service.catalogue.revision() == before


async def test_no_prompt_may_take_the_base_models_name(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.import_text(prompt=BASE_MODEL)
        assert (answer.status_code, code_of(answer)) == (409, "name_is_base_model")


async def test_no_prompt_may_be_called_what_metrics_call_the_rest(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.import_text(prompt="other")
        assert (answer.status_code, code_of(answer)) == (400, "invalid_name")
        assert (await api.client.get(f"{V1}/prompts")).json()["data"] == []


async def test_a_removed_versions_name_takes_no_other_content(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft(2, 0)
        await api.client.delete(f"{VERSIONS}/v1")
        other = await api.import_soft(2, 1, version="v1")
        assert (other.status_code, code_of(other)) == (409, "version_removed")
        same = await api.import_soft(2, 0, version="v1")
        assert (same.status_code, same.json()["state"]) == (201, "resident")

"""The admin API against its own OpenAPI document: whatever is sent, it keeps its promises."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from fuzz.admin import PROMPT, V1, Admin, check_answer, furnish, furnished, running, tensor
from fuzz.amount import cases
from fuzz.narrow import narrowed
from hypothesis import given
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

from softprompt_serve.access.endpoints import OPEN
from softprompt_serve.testing import ADMIN_TOKEN, app_for_tests, service_for_tests

FEEDBACK_TOKEN = "a-feedback-token"
PLACES = {
    "name": PROMPT,
    "version": "v1",
    "alias": "canary",
    "token": "ci",
    "response_id": "r",
    "hook": "event",
    "run": "0" * 32,
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def openapi() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        service = service_for_tests(Path(home))
        document = app_for_tests(service).openapi()
        service.catalogue.close()
    return document


def operations(document: dict[str, Any]) -> dict[str, Any]:
    """Label → operation, in the document's order."""
    schema = schemathesis.openapi.from_dict(document)
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


DOCUMENT = openapi()
WIDE = operations(DOCUMENT)
NARROW = operations(narrowed(DOCUMENT))
GUARDED = [label for label in WIDE if label.split()[1].removeprefix(V1) not in OPEN]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("template")
    with running(home) as admin:
        furnish(admin)
    return home


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Admin]:
    home = furnished(template, tmp_path_factory.mktemp("home") / "home")
    with running(home, feedback_token=FEEDBACK_TOKEN) as server:
        yield server


def call_any(admin: Admin, operation: Any, mode: GenerationMode, few: int, share: float) -> None:
    @cases(few, share)
    @given(operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        admin.call(case)

    call()


@pytest.mark.parametrize("label", WIDE)
def test_what_the_document_allows_is_answered_as_it_says(admin: Admin, label: str) -> None:
    call_any(admin, WIDE[label], GenerationMode.POSITIVE, 5, 0.2)


@pytest.mark.parametrize("label", GUARDED)
def test_what_the_document_forbids_is_refused_as_it_says(admin: Admin, label: str) -> None:
    call_any(admin, NARROW[label], GenerationMode.NEGATIVE, 5, 0.2)


TENSORS = st.sampled_from([tensor(rows, seed) for rows, seed in ((2, 1), (3, 2), (1, 5))])


@st.composite
def steps(draw: st.DrawFn) -> list[Any]:
    """Calls about one prompt, most of them well formed, with tensors where one is uploaded."""
    drawn = []
    for label in draw(st.lists(st.sampled_from(GUARDED), min_size=4, max_size=14)):
        case = draw(NARROW[label].as_strategy())
        if isinstance(case.body, dict) and "tensor" in case.body:
            case.body["tensor"] = draw(TENSORS)
        drawn.append(case)
    return drawn


@pytest.mark.parametrize("gates", ["off", "enforce"])
def test_any_walk_over_one_prompt_keeps_every_promise(template: Path, gates: str) -> None:
    @cases(12, 0.1)
    @given(steps())
    def walk(calls: list[Any]) -> None:
        # A connection that is closing may still remove its log.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            home = furnished(template, Path(folder) / "home")
            with running(home, promotion_gates=gates) as admin:
                for case in calls:
                    admin.call(case)
                before = admin.session.get(f"{admin.url}{V1}/prompts").json()
            # What was answered is what a restart finds.
            with running(home, promotion_gates=gates) as admin:
                assert admin.session.get(f"{admin.url}{V1}/prompts").json() == before

    walk()


@pytest.mark.parametrize("label", GUARDED)
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic Og==", 401),
        (f"Digest {ADMIN_TOKEN}", 401),
        (f"Bearer {FEEDBACK_TOKEN}", 403),
    ],
)
def test_without_the_admin_token_nothing_is_answered(
    admin: Admin, label: str, authorization: str | None, status: int
) -> None:
    method, path = label.split()
    path = path.format(
        name=PROMPT,
        version="v1",
        alias="canary",
        token="ci",
        response_id="r",
        hook="event",
        run="0" * 32,
    )
    if status == 403 and path in {f"{V1}/feedback", f"{V1}/evaluations"}:
        return  # what that token is for
    before = admin.state()
    headers = {} if authorization is None else {"authorization": authorization}
    answer = requests.request(method, f"{admin.url}{path}", headers=headers, json={}, timeout=30)
    assert answer.status_code == status
    check_answer(answer.status_code, answer.json)
    assert admin.state() == before


@pytest.mark.parametrize("path", sorted({label.split()[1] for label in WIDE}))
def test_a_method_that_a_route_has_not_is_405(admin: Admin, path: str) -> None:
    known = {label.split()[0] for label in WIDE if label.split()[1] == path}
    for method in sorted(set(METHODS) - known):
        answer = admin.session.request(
            method, f"{admin.url}{path.replace('{', '').replace('}', '')}"
        )
        assert answer.status_code == 405, (method, answer.text)
        assert set(answer.headers["allow"].split(", ")) == known
        if method != "HEAD":
            check_answer(answer.status_code, answer.json)


@cases(60, 0.5)
@given(st.text(min_size=1, max_size=80))
def test_a_path_that_is_not_there_is_404(admin: Admin, rest: str) -> None:
    path = "/x" + requests.utils.quote(rest, safe="/%?#")
    answer = admin.session.get(f"{admin.url}{V1}{path}", allow_redirects=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "route_not_found")
    check_answer(answer.status_code, answer.json)


BODIES = st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
        lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(max_size=9), parts),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    st.integers(1, 60_000).map(lambda deep: b"[" * deep + b"]" * deep),
    st.integers(1, 60_000).map(lambda deep: b'{"arms":' * deep),
)
TYPES = st.sampled_from(
    [
        *("application/json", "application/json; charset=utf-16", "application/yaml", "text/plain"),
        *("application/x-www-form-urlencoded", "multipart/form-data", "application/octet-stream"),
        *("multipart/form-data; boundary=", "multipart/form-data; boundary=x", "x", "/", ""),
        *("multipart/form-data; boundary=" + "x" * 300, "multipart/mixed; boundary=x", "a/b;;;="),
    ]
)


@cases(250, 2)
@given(st.sampled_from(sorted(WIDE)), BODIES, TYPES)
def test_any_body_of_any_type_is_answered_or_refused(
    admin: Admin, label: str, body: bytes, kind: str
) -> None:
    method, path = label.split()
    path = path.format(**PLACES)
    before = admin.state()
    answer = admin.session.request(
        method, f"{admin.url}{path}", data=body, headers={"content-type": kind}
    )
    check_answer(answer.status_code, answer.json)
    if answer.status_code >= 400:
        assert admin.state() == before

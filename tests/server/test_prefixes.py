"""Prefixes over HTTP: they get all that a soft version gets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save
from server.answers import V1, VERSIONS, code_of

from softprompt_serve.release.bundle import unpack
from softprompt_serve.release.records import BaseModelIdentity
from softprompt_serve.testing import KV, FakeWorkers

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio

SHAPE = [KV.layers, 2, 3, KV.kv_heads, KV.head_dim]
DATA = save({"any": torch.arange(96, dtype=torch.float32).reshape(SHAPE)})


async def upload(api: Any, data: bytes = DATA, **parts: Any) -> httpx.Response:
    return await api.client.post(VERSIONS, files={"tensor": ("t.safetensors", data)}, data=parts)


async def test_an_import_is_answered_with_its_kind_and_tokens(serve: Serve) -> None:
    async with serve() as api:
        answer = await upload(api, version="v4")
        assert answer.status_code == 201
        wanted = {"version": "v4", "kind": "prefix", "virtual_tokens": 3, "hidden_size": 0}
        assert answer.json().items() >= (wanted | {"dtype": "float32", "state": "resident"}).items()


async def test_a_prefix_may_carry_a_text(serve: Serve) -> None:
    async with serve() as api:
        mixed = (await upload(api, text="Be brief.")).json()
        assert (mixed["kind"], mixed["text"]) == ("prefix", "Be brief.")


@pytest.mark.parametrize("kind", ["prefix", None])
async def test_a_kind_that_is_the_tensor_s_is_accepted(serve: Serve, kind: str | None) -> None:
    async with serve() as api:
        answer = await upload(api, **({} if kind is None else {"kind": kind}))
        assert (answer.status_code, answer.json()["kind"]) == (201, "prefix")


async def test_a_kind_that_is_not_the_tensor_s_is_refused(serve: Serve) -> None:
    async with serve() as api:
        for answer in (await upload(api, kind="soft"), await api.import_soft(kind="prefix")):
            assert (answer.status_code, code_of(answer)) == (400, "invalid_upload")
        assert (await api.client.get(f"{V1}/prompts")).json()["data"] == []


async def test_keys_and_values_of_another_shape_are_refused_by_what_is_served(serve: Serve) -> None:
    async with serve() as api:
        answer = await upload(api, save({"a": torch.ones(3, 2, 3, 2, 4)}))
        assert (answer.status_code, code_of(answer)) == (400, "artifact_wrong_kv_shape")
        assert "expected [2, 2, n, 2, 4]" in answer.json()["error"]["message"]


async def test_a_model_that_gets_no_prefixes_refuses_them_alone(serve: Serve) -> None:
    async with serve() as api:
        api.service.served = replace(api.service.served, prefix_refused="Layers differ.")
        answer = await upload(api)
        assert (answer.status_code, code_of(answer)) == (400, "prefix_not_served")
        assert answer.json()["error"]["message"] == "Layers differ."
        assert (await api.import_soft()).status_code == 201


async def test_the_limits_name_the_served_keys_and_values(serve: Serve) -> None:
    async with serve() as api:
        limits = (await api.client.get(f"{V1}/server")).json()["limits"]
        assert limits["kv"] == {"layers": 2, "kv_heads": 2, "head_dim": 4}


async def test_unloading_frees_the_workers(serve: Serve) -> None:
    async with serve() as api:
        digest = (await upload(api)).json()["digest"]
        assert [slot.digest for slot in api.workers.slots.resident()] == [digest]
        answer = await api.client.put(f"{VERSIONS}/v1/residency", json={"resident": False})
        assert answer.json()["state"] == "unloaded"
        assert not api.workers.slots.resident()


async def test_a_lost_prefix_is_not_resident_and_comes_back(serve: Serve) -> None:
    async with serve() as api:
        digest = (await upload(api)).json()["digest"]
        await api.alias("v1")
        api.workers.lose(digest)
        await api.service.residency.refresh()
        assert not api.service.residency.is_resident(api.service.find_version("support", "v1"))
        assert (await api.client.get(f"{V1}/readyz")).status_code == 200
        assert api.service.residency.is_resident(api.service.find_version("support", "v1"))


async def test_a_bundle_holds_the_same_version(serve: Serve) -> None:
    async with serve() as api:
        digest = (await upload(api, text="Be brief.")).json()["digest"]
        bundle = unpack((await api.client.get(f"{VERSIONS}/v1/bundle")).content)
        assert bundle.content.digest == digest
        again = await upload(api, bundle.tensor, text=bundle.content.text, digest=digest)
        assert (again.status_code, again.json()["version"]) == (200, "v1")


async def test_a_prefix_is_promoted_only_on_evidence(serve: Serve) -> None:
    async with serve(promotion_gates="enforce") as api:
        await api.import_text()
        await upload(api)
        answer = await api.alias("v2")
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "gates_failed"


async def test_a_prefix_made_for_another_base_model_is_set_aside(serve: Serve) -> None:
    old = BaseModelIdentity("acme/small", fingerprint="a" * 64)
    async with serve(identity=old, promotion_gates="enforce") as api:
        await api.import_text()
        await upload(api)
    async with serve(identity=replace(old, fingerprint="b" * 64)) as api:
        version = (await api.client.get(f"{VERSIONS}/v2")).json()
        assert "imported on weights" in version["unverified"]


async def test_a_restart_loads_it_and_counts_all_its_rows(serve: Serve) -> None:
    """Three tokens of it take twelve rows here, beside which one of two soft versions has room."""
    async with serve(workers=FakeWorkers(capacity=14)) as api:
        for seed in (1, 2):
            await api.import_soft(2, seed)
        await upload(api, version="deep")
    async with serve(workers=FakeWorkers(capacity=14)) as api:
        resident = sorted(slot.rows for slot in api.workers.slots.resident())
        assert resident == [2, 12]
        assert api.workers.calls.count(("status", "")) == 1  # nothing was loaded for another

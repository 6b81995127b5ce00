"""What each change does, in which order, and what is left when a step fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from softprompt_serve.errors import Conflict, NotFound, SoftpromptError, Unavailable
from softprompt_serve.server.healing import Healing
from softprompt_serve.telemetry.events import Applied
from softprompt_serve.testing import FakeWorkers

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio


def find(api: Any, version: str = "v1") -> Any:
    return api.service.find_version("support", version)


def loads(api: Any) -> list[str]:
    return [digest for method, digest in api.workers.calls if method == "load"]


async def test_an_import_is_stored_then_catalogued_then_loaded_then_seen(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(poll_seconds=60.0) as api:
        steps: list[str] = []

        def traced(owner: Any, name: str) -> None:
            real = getattr(owner, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                steps.append(name)
                return real(*args, **kwargs)

            monkeypatch.setattr(owner, name, call)

        traced(api.service.store, "put")
        traced(api.service.catalogue, "add_version")
        traced(api.workers, "load")
        traced(api.service.feed, "refresh")
        await api.import_soft()
        assert steps == ["put", "add_version", "load", "refresh"]


async def test_an_imported_version_is_resident_when_it_is_answered(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        assert api.service.residency.is_resident(find(api))


async def test_an_import_that_finds_no_room_is_kept_and_says_why(serve: Serve) -> None:
    async with serve(workers=FakeWorkers(capacity=4)) as api:
        await api.import_soft(4)
        await api.alias("v1")
        answer = await api.import_soft(3, 1)
        assert (answer.status_code, answer.json()["state"]) == (201, "stored")
        assert "no room" in answer.json()["reason"]


async def test_an_alias_moves_only_to_a_version_that_is_resident(serve: Serve) -> None:
    async with serve(workers=FakeWorkers(capacity=4)) as api:
        await api.import_soft(4)
        await api.alias("v1")
        await api.import_soft(3, 1)  # no room beside production
        with pytest.raises(Unavailable) as caught:
            await api.service.set_alias("support", "production", "v2", None)
        assert caught.value.code == "bank_full"
        assert find(api, "production").version == "v1"


async def test_an_alias_swap_loads_an_evicted_version_first(serve: Serve) -> None:
    async with serve(workers=FakeWorkers(capacity=4)) as api:
        await api.import_soft(4)
        await api.import_soft(3, 1)  # evicts the first
        assert not api.service.residency.is_resident(find(api, "v1"))
        await api.service.set_alias("support", "production", "v1", None)
        assert api.service.residency.is_resident(find(api, "production"))


async def test_what_a_restore_evicted_is_no_longer_believed_resident(serve: Serve) -> None:
    async with serve(workers=FakeWorkers(capacity=4)) as api:
        await api.import_soft(4)
        await api.import_soft(3, 1)
        await api.service.residency.ensure(find(api, "v1"))  # comes back from the host tier
        assert not api.service.residency.is_resident(find(api, "v2"))


async def test_production_is_never_evicted_for_a_newcomer(serve: Serve) -> None:
    async with serve(workers=FakeWorkers(capacity=6)) as api:
        await api.import_soft(3)
        await api.alias("v1")
        await api.import_soft(3, 1)
        await api.import_soft(3, 2)
        assert api.service.residency.is_resident(find(api, "v1"))
        assert not api.service.residency.is_resident(find(api, "v2"))


async def test_a_leased_version_is_never_evicted_for_a_newcomer(serve: Serve) -> None:
    async with serve(workers=FakeWorkers(capacity=4)) as api:
        await api.import_soft(4)
        lease = api.service.residency.lease(find(api))
        await api.import_soft(3, 1)
        assert api.service.residency.is_resident(find(api, "v1"))
        lease.release()


async def test_an_alias_of_an_unloaded_version_is_refused(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.service.set_resident("support", "v1", None, wanted=False)
        with pytest.raises(Conflict) as caught:
            await api.service.set_alias("support", "production", "v1", None)
        assert caught.value.code == "version_unloaded"


async def test_a_removal_waits_for_requests_in_flight(serve: Serve) -> None:
    async with serve(drain_seconds=5.0) as api:
        await api.import_soft()
        version = find(api)
        lease = api.service.residency.lease(version)
        removal = asyncio.create_task(api.service.remove_version("support", "v1", None))
        await asyncio.sleep(0.1)
        assert not removal.done()
        assert api.workers.slots.find(version.digest) is not None
        with pytest.raises(NotFound):  # while new requests no longer find it
            find(api)
        lease.release()
        await removal
        assert api.workers.slots.find(version.digest) is None


async def test_a_removal_waits_for_what_a_worker_still_runs(serve: Serve) -> None:
    async with serve(drain_seconds=5.0) as api:
        await api.import_soft()
        digest = find(api).digest
        api.workers.slots.hold(digest, "r")
        removal = asyncio.create_task(api.service.remove_version("support", "v1", None))
        await asyncio.sleep(0.1)
        assert not removal.done()
        api.workers.slots.release("r")
        await removal


async def test_a_removal_that_is_outlasted_says_so_and_finishes_later(serve: Serve) -> None:
    async with serve(drain_seconds=0.05) as api:
        await api.import_soft()
        version = find(api)
        lease = api.service.residency.lease(version)
        answer = await api.client.delete("/softprompts/v1/prompts/support/versions/v1")
        assert (answer.status_code, answer.json()["draining"]) == (202, True)
        with pytest.raises(NotFound):
            find(api)
        assert api.service.store.has(version.digest)
        lease.release()
        await asyncio.gather(*api.service.drains._tasks)
        assert not api.service.store.has(version.digest)
        assert api.workers.slots.find(version.digest) is None


async def test_a_removed_version_leaves_workers_host_tier_and_disk(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        digest = find(api).digest
        await api.service.remove_version("support", "v1", None)
        assert (api.workers.slots.find(digest), api.workers.host) == (None, {})
        assert not api.service.store.has(digest)


async def test_content_that_another_version_shares_stays_when_one_is_removed(
    serve: Serve,
) -> None:
    async with serve() as api:
        await api.import_soft(prompt="support")
        await api.import_soft(prompt="sales")
        digest = find(api).digest
        await api.service.remove_version("support", "v1", None)
        assert api.workers.slots.find(digest) is not None
        assert api.service.store.has(digest)


async def test_content_that_an_unloaded_version_shares_stays_on_disk(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft(prompt="support")
        await api.import_soft(prompt="sales")
        digest = find(api).digest
        await api.service.set_resident("sales", "v1", None, wanted=False)
        await api.service.remove_version("support", "v1", None)
        assert api.workers.slots.find(digest) is None
        await api.service.set_resident("sales", "v1", None, wanted=True)
        assert api.workers.slots.find(digest) is not None


async def test_unloading_one_of_two_versions_with_the_same_content_keeps_it(
    serve: Serve,
) -> None:
    async with serve() as api:
        await api.import_soft(prompt="support")
        await api.import_soft(prompt="sales")
        await api.service.set_resident("support", "v1", None, wanted=False)
        assert api.workers.slots.find(find(api).digest) is not None


async def test_an_unloaded_version_is_restored_from_the_host_tier(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.service.set_resident("support", "v1", None, wanted=False)
        before = len(loads(api))
        await api.service.set_resident("support", "v1", None, wanted=True)
        assert len(loads(api)) == before
        assert api.service.residency.is_resident(find(api))


async def test_importing_unloaded_content_again_does_not_load_it(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.service.set_resident("support", "v1", None, wanted=False)
        answer = await api.import_soft()
        assert (answer.status_code, answer.json()["state"]) == (200, "unloaded")
        assert api.workers.slots.find(find(api).digest) is None


async def test_production_can_not_be_unloaded(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.alias("v1")
        with pytest.raises(Conflict) as caught:
            await api.service.set_resident("support", "v1", None, wanted=False)
        assert caught.value.code == "version_aliased"
        assert find(api).wanted


async def test_a_restart_restores_versions_aliases_and_residency(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft(2)
        await api.import_soft(3, 1)
        await api.import_text()
        await api.alias("v2")
        before = api.service.snapshot
    async with serve() as api:
        assert api.service.snapshot == before
        assert {slot.rows for slot in api.workers.slots.resident()} == {2, 3}


async def test_a_restart_loads_production_first_where_not_all_fit(serve: Serve) -> None:
    async with serve(workers=FakeWorkers(capacity=4)) as api:
        await api.import_soft(3)
        await api.alias("v1")
        await api.import_soft(2, 1)
        await api.import_soft(2, 2)
    async with serve(workers=FakeWorkers(capacity=4)) as api:
        assert api.service.residency.is_resident(find(api, "v1"))
        assert api.service.keeping.unloadable.keys() <= {"support@v2", "support@v3"}


async def test_a_restart_loads_the_newest_and_none_that_would_have_to_leave(serve: Serve) -> None:
    async with serve(workers=FakeWorkers(capacity=4)) as api:
        for seed in range(5):
            await api.import_soft(2, seed)
    async with serve(workers=FakeWorkers(capacity=4)) as api:
        assert len(loads(api)) == 2
        assert api.service.residency.is_resident(find(api, "v5"))
        assert api.service.residency.is_resident(find(api, "v4"))


async def test_a_restart_does_not_load_what_was_unloaded(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.service.set_resident("support", "v1", None, wanted=False)
    async with serve() as api:
        assert api.workers.slots.used == 0


async def test_a_damaged_blob_is_named_and_the_rest_is_served(serve: Serve, tmp_path: Path) -> None:
    async with serve() as api:
        await api.import_soft(2)
        await api.import_soft(3, 1)
        digest = find(api, "v1").digest
    blob = tmp_path / "blobs" / digest[:2] / digest
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    async with serve() as api:
        assert "damaged" in api.service.keeping.unloadable["support@v1"]
        assert api.service.residency.is_resident(find(api, "v2"))


async def test_a_lost_version_is_found_out_and_loaded_again(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        version = find(api)
        api.workers.lose(version.digest)
        assert await api.service.residency.recover(version) is True
        assert api.workers.slots.find(version.digest) is not None


async def test_a_version_that_was_not_lost_is_not_recovered(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        before = len(loads(api))
        assert await api.service.residency.recover(find(api)) is False
        assert len(loads(api)) == before


async def test_many_requests_that_need_a_version_load_it_once(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        version = find(api)
        api.workers.lose(version.digest)
        await api.service.residency.refresh()
        api.workers.calls.clear()
        await asyncio.gather(*(api.service.residency.ensure(version) for _ in range(20)))
        assert len(loads(api)) == 1


async def test_a_version_counts_as_resident_only_where_all_workers_have_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(workers=FakeWorkers(ranks=2)) as api:
        await api.import_soft()
        version = find(api)
        real = api.workers.status

        async def one_lost_it() -> list[dict[str, Any]]:
            statuses = await real()
            statuses[1]["resident"] = {}
            return statuses

        monkeypatch.setattr(api.workers, "status", one_lost_it)
        await api.service.residency.refresh()
        assert not api.service.residency.is_resident(version)


async def test_another_processes_change_is_followed(serve: Serve) -> None:
    async with serve() as one, serve() as two:
        await one.import_soft()
        await one.alias("v1")
        for _ in range(100):
            if two.service.snapshot == one.service.snapshot:
                break
            await asyncio.sleep(0.02)
        assert two.service.residency.is_resident(two.service.find_version("support", "v1"))


async def test_a_dead_catalogue_stops_changes_and_nothing_else(
    serve: Serve, tmp_path: Path
) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.alias("v1")
        (tmp_path / "catalogue.db").unlink()
        for change in (
            api.service.set_alias("support", "candidate", "v1", None),
            api.service.remove_alias("support", "production", None),
            api.service.set_resident("support", "v1", None, wanted=True),
        ):
            with pytest.raises(Unavailable) as caught:
                await change
            assert caught.value.code == "catalogue_unavailable"
        assert find(api, "production").version == "v1"
        await api.service.residency.ensure(find(api))


async def test_dead_workers_leave_an_import_stored(serve: Serve) -> None:
    async with serve() as api:
        api.workers.failure = Unavailable("The engine is down.", code="workers_failed")
        answer = await api.import_soft()
        assert (answer.status_code, answer.json()["state"]) == (201, "stored")


async def test_dead_workers_refuse_an_alias_swap(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        api.workers.lose(find(api).digest)
        await api.service.residency.refresh()
        api.workers.failure = Unavailable("The engine is down.", code="workers_failed")
        with pytest.raises(SoftpromptError):
            await api.service.set_alias("support", "production", "v1", None)
        assert find(api).version == "v1"
        with pytest.raises(NotFound):
            find(api, "production")


async def test_what_could_not_be_loaded_is_tried_again(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.alias("v1")
        service, version = api.service, find(api)
        api.workers.lose(version.digest)
        await service.residency.refresh()
        api.workers.failure = Unavailable("The engine is down.", code="workers_failed")
        await service.apply(service.snapshot)  # as when another replica's change is followed
        healing = Healing(service)
        await healing.tick()
        assert service.keeping.unloadable == {"support@v1": "The engine is down."}
        api.workers.failure = None
        told: list[bool] = []
        service.events.listen(Applied, lambda _: told.append(True))
        await healing.tick()
        assert service.residency.is_resident(version)
        assert (service.keeping.unloadable, told) == ({}, [True])


async def test_a_model_that_was_not_verified_gets_no_soft_versions_but_hard_ones(
    serve: Serve,
) -> None:
    async with serve() as api:
        api.service.served = replace(api.service.served, soft_refused="GemmaForCausalLM: no.")
        answer = await api.import_soft()
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "architecture_not_verified"
        hard = await api.import_text("Be brief.")
        assert hard.status_code == 201

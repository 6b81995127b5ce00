"""What is told of changes, loads and snapshots, to whoever counts or traces them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from softprompt_serve.telemetry.events import Applied, Loaded, Operation, Seen
from softprompt_serve.testing import FakeWorkers

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio

ROLLOUT = "/softprompts/v1/prompts/support/rollout"


def heard(api: Any, *kinds: type) -> list[Any]:
    """A list that fills with the service's events of those kinds."""
    found: list[Any] = []
    for kind in kinds:
        api.service.events.listen(kind, found.append)
    return found


async def two_versions(api: Any) -> None:
    await api.import_soft(seed=0)
    await api.import_soft(seed=1)
    await api.alias("v1")


async def test_each_change_is_told_with_who_asked_and_how_it_ended(serve: Serve) -> None:
    async with serve() as api:
        told = heard(api, Operation)
        await two_versions(api)
        await api.alias("v2")
        await api.alias("v9")
        assert [(o.name, o.prompt, o.error) for o in told] == [
            ("import", "support", None),
            ("import", "support", None),
            ("alias", "support", None),
            ("alias", "support", None),
            ("alias", "support", "version_not_found"),
        ]
        swap = told[3]
        assert swap.subject == "production"
        assert dict(swap.attributes) == {"version": "v2", "previous": "v1"}
        assert swap.seconds > 0
        assert swap.started_at > told[0].started_at
        assert swap.parent is None


async def test_a_change_is_told_with_its_caller_s_place_in_a_trace(serve: Serve) -> None:
    place = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serve() as api:
        told = heard(api, Operation)
        api.client.headers["traceparent"] = place
        await api.import_soft()
        del api.client.headers["traceparent"]
        await api.alias("v1")
        assert [made.parent for made in told] == [place, None]


async def test_a_rollout_is_told_with_what_became_of_it(serve: Serve) -> None:
    async with serve() as api:
        await two_versions(api)
        told = heard(api, Operation)
        document = {"arms": [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]}
        assert (await api.client.put(ROLLOUT, json=document)).status_code == 200
        await api.client.put(f"{ROLLOUT}/weights", json={"v1": 50, "v2": 50})
        await api.client.post(f"{ROLLOUT}/promote", json={"version": "v2"})
        await api.client.post(f"{ROLLOUT}/resume", json={})
        await api.client.delete(ROLLOUT)
        assert [(o.name, o.error is None) for o in told] == [
            ("rollout", True),
            ("weights", True),
            ("promote", True),
            ("resume", False),
            ("rollout_remove", True),
        ]
        assert told[1].attributes["weights"] == "v1=50,v2=50"
        assert told[1].attributes["generation"] == told[0].attributes["generation"] + 1
        assert told[2].attributes["state"] == "promoted"


async def test_a_load_is_told_with_where_its_bytes_were_and_what_made_room(serve: Serve) -> None:
    async with serve() as api:
        told = heard(api, Loaded)
        await two_versions(api)
        version = api.service.find_version("support", "v2")
        await api.service.set_resident("support", "v2", None, wanted=False)
        await api.service.set_resident("support", "v2", None, wanted=True)
        assert [(load.source, load.error) for load in told] == [
            ("blob", None),
            ("blob", None),
            ("host", None),
        ]
        assert told[2].digest == version.digest
        assert all(load.seconds > 0 for load in told)


async def test_a_load_that_fails_is_told_with_its_code(serve: Serve) -> None:
    async with serve(workers=FakeWorkers(capacity=4)) as api:
        told = heard(api, Loaded)
        await api.import_soft(4)
        await api.alias("v1")
        await api.import_soft(3, 1)
        assert [load.error for load in told] == [None, "bank_full"]


async def test_a_snapshot_is_seen_before_it_is_applied_and_told_at_start(serve: Serve) -> None:
    async with serve() as api:
        await two_versions(api)
    async with serve() as api:
        told = heard(api, Seen, Applied)
        await api.alias("v2")
        assert [type(event) for event in told] == [Seen, Applied]
        assert told[0].snapshot is told[1].snapshot

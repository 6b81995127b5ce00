"""Following the catalogue."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from softprompt_serve.artifact import Content
from softprompt_serve.errors import Unavailable
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.feed import Feed
from softprompt_serve.registry.snapshot import EMPTY, Snapshot

POLL = 0.01


class Applied:
    """Keeps what a feed handed on."""

    def __init__(self) -> None:
        self.revisions: list[int] = []

    def __call__(self, snapshot: Snapshot) -> None:
        self.revisions.append(snapshot.revision)


class Silent:
    """A source without anything, which tells of nothing."""

    def snapshot(self, previous: Snapshot) -> Snapshot:
        return EMPTY

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


@pytest.fixture
def applied() -> Applied:
    return Applied()


def follow(
    tmp_path: Path,
    apply: Callable[[Snapshot], Awaitable[None] | None],
    steps: Callable[[Catalogue, Feed], Awaitable[None]],
    poll: float = POLL,
) -> Feed:
    """Run ``steps`` with an open catalogue and a feed of it that is started and stopped."""

    async def run() -> Feed:
        catalogue = Catalogue.open(f"sqlite:///{tmp_path}/home/catalogue.db")
        feed = Feed(catalogue, apply, poll)
        await feed.start()
        try:
            await steps(catalogue, feed)
        finally:
            await feed.stop()
            catalogue.close()
        return feed

    return asyncio.run(run())


def add(catalogue: Catalogue, text: str) -> None:
    catalogue.add_version("p", None, Content("hard", text=text), {})


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_the_first_state_is_applied_before_start_returns(tmp_path: Path, applied: Applied) -> None:
    async def steps(catalogue: Catalogue, feed: Feed) -> None:
        assert applied.revisions == [0]
        assert feed.healthy
        assert feed.last_seen_at == pytest.approx(time.time(), abs=5)

    follow(tmp_path, applied, steps)


def test_another_process_s_change_arrives_by_itself(tmp_path: Path, applied: Applied) -> None:
    async def steps(catalogue: Catalogue, feed: Feed) -> None:
        other = Catalogue.open(f"sqlite:///{tmp_path}/home/catalogue.db")
        add(other, "a")
        await until(lambda: feed.snapshot.revision == 1)
        other.close()

    feed = follow(tmp_path, applied, steps)
    assert list(feed.snapshot.prompts["p"].versions) == ["v1"]
    assert applied.revisions == [0, 1]


def test_refresh_has_an_own_change_at_once(tmp_path: Path, applied: Applied) -> None:
    async def steps(catalogue: Catalogue, feed: Feed) -> None:
        add(catalogue, "a")
        assert (await feed.refresh()).revision == 1
        assert applied.revisions == [0, 1]

    follow(tmp_path, applied, steps, poll=60)


def test_nothing_is_applied_when_nothing_changed(tmp_path: Path, applied: Applied) -> None:
    async def steps(catalogue: Catalogue, feed: Feed) -> None:
        seen = feed.last_seen_at
        await until(lambda: feed.last_seen_at != seen)
        assert await feed.refresh() is feed.snapshot

    follow(tmp_path, applied, steps)
    assert applied.revisions == [0]


def test_an_async_apply_is_awaited_and_never_runs_twice_at_once(tmp_path: Path) -> None:
    running, overlaps, done = 0, 0, []

    async def apply(snapshot: Snapshot) -> None:
        nonlocal running, overlaps
        running += 1
        overlaps += running > 1
        await asyncio.sleep(0.02)
        running -= 1
        done.append(snapshot.revision)

    async def steps(catalogue: Catalogue, feed: Feed) -> None:
        for number in range(5):
            add(catalogue, str(number))
            await asyncio.gather(feed.refresh(), feed.refresh(), feed.refresh())
        assert done[-1] == feed.snapshot.revision == 5

    follow(tmp_path, apply, steps)
    assert overlaps == 0
    assert done == sorted(set(done))


def test_a_lost_database_keeps_the_last_snapshot_and_says_so(
    tmp_path: Path, applied: Applied, caplog: pytest.LogCaptureFixture
) -> None:
    async def steps(catalogue: Catalogue, feed: Feed) -> None:
        add(catalogue, "a")
        await feed.refresh()
        seen = feed.last_seen_at
        shutil.rmtree(tmp_path / "home")
        await until(lambda: not feed.healthy)
        await asyncio.sleep(10 * POLL)
        assert feed.snapshot.revision == 1
        assert "removed or replaced" in feed.error or "unable to open" in feed.error
        with pytest.raises(Unavailable):
            await feed.refresh()
        assert feed.last_seen_at - seen < 5

    follow(tmp_path, applied, steps)
    assert len(caplog.records) < 4


def test_a_database_that_comes_back_is_followed_again(tmp_path: Path, applied: Applied) -> None:
    async def steps(catalogue: Catalogue, feed: Feed) -> None:
        path = tmp_path / "home" / "catalogue.db"
        path.rename(tmp_path / "away")
        await until(lambda: not feed.healthy)
        (tmp_path / "away").rename(path)
        await until(lambda: feed.healthy)
        add(catalogue, "a")
        await until(lambda: feed.snapshot.revision == 1)

    follow(tmp_path, applied, steps)


def test_a_database_that_is_down_at_the_start_is_no_error(tmp_path: Path) -> None:
    class Down(Silent):
        def revision(self) -> int:
            msg = "down"
            raise Unavailable(msg)

    async def run() -> Feed:
        feed = Feed(Down(), lambda _: None, POLL)
        await feed.start()
        await feed.stop()
        return feed

    feed = asyncio.run(run())
    assert (feed.healthy, feed.snapshot, feed.last_seen_at) == (False, EMPTY, None)
    assert "down" in feed.error


def test_a_state_that_could_not_be_applied_is_tried_again(tmp_path: Path) -> None:
    attempts: list[int] = []

    def apply(snapshot: Snapshot) -> None:
        attempts.append(snapshot.revision)
        if attempts.count(1) in (1, 2):
            msg = "no room"
            raise RuntimeError(msg)

    async def steps(catalogue: Catalogue, feed: Feed) -> None:
        add(catalogue, "a")
        with pytest.raises(RuntimeError, match="no room"):
            await feed.refresh()
        assert (feed.snapshot.revision, feed.healthy) == (0, False)
        await until(lambda: feed.healthy)
        assert feed.snapshot.revision == 1

    follow(tmp_path, apply, steps, poll=0.05)


def test_nothing_is_applied_after_stop(tmp_path: Path, applied: Applied) -> None:
    async def run() -> None:
        catalogue = Catalogue.open(f"sqlite:///{tmp_path}/home/catalogue.db")
        feed = Feed(catalogue, applied, POLL)
        await feed.start()
        await feed.stop()
        add(catalogue, "a")
        await asyncio.sleep(10 * POLL)
        catalogue.close()

    asyncio.run(run())
    assert applied.revisions == [0]


class Telling(Silent):
    """A source that is told of changes, and tells of them."""

    def __init__(self) -> None:
        self.looks = 0
        self.wakes: list[Callable[[], None]] = []

    def revision(self) -> int:
        self.looks += 1
        return 0

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        self.wakes.append(wake)
        return lambda: self.wakes.remove(wake)


def test_a_feed_that_is_told_looks_at_once() -> None:
    async def run() -> None:
        source = Telling()
        feed = Feed(source, lambda _: None, 60)
        await feed.start()
        for looks in (2, 3):
            await asyncio.to_thread(source.wakes[0])
            await until(lambda: source.looks == looks)  # noqa: B023 - awaited in its turn
        await feed.stop()

    asyncio.run(run())


def test_a_stopped_feed_is_told_no_more_and_may_be_told_too_late() -> None:
    source = Telling()

    async def run() -> Callable[[], None]:
        feed = Feed(source, lambda _: None, 60)
        await feed.start()
        (wake,) = source.wakes
        await feed.stop()
        return wake

    late = asyncio.run(run())
    assert source.wakes == []
    late()
    assert source.looks == 1


def test_a_slow_database_does_not_hold_the_event_loop(tmp_path: Path) -> None:
    class Slow(Silent):
        def revision(self) -> int:
            time.sleep(0.3)
            return 0

    async def run() -> int:
        feed = Feed(Slow(), lambda _: None, POLL)
        look = asyncio.create_task(feed.refresh())
        turns = 0
        while not look.done():
            await asyncio.sleep(0.005)
            turns += 1
        await feed.stop()
        return turns

    assert asyncio.run(run()) > 10

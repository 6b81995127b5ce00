"""The map of the slab against a simple model, and the rules one by one."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from softprompt_serve.bank.slots import Slot, Slots
from softprompt_serve.errors import BadRequest, Conflict, Unavailable

CAPACITY = 24
DIGESTS = [f"d{i}" for i in range(7)]
HOLDERS = [f"r{i}" for i in range(5)]
ROWS = dict(zip(DIGESTS, (1, 2, 5, 7, 9, 12, 24), strict=True))

digests = st.sampled_from(DIGESTS)
holders = st.sampled_from(HOLDERS)
keeps = st.sets(digests, max_size=3)


class SlotsMachine(RuleBasedStateMachine):
    """The model: an ordered list of residents (least recent first) and who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(CAPACITY)
        self.twin = Slots(CAPACITY)
        self.order: list[str] = []
        self.held: dict[str, str] = {}

    def both(self, method: str, *args: object, **kwargs: object) -> object:
        """Feed both ranks the same call; they must answer and fail alike."""
        answers: list[object] = []
        for slots in (self.slots, self.twin):
            try:
                answers.append(getattr(slots, method)(*args, **kwargs))
            except (BadRequest, Conflict, Unavailable) as error:
                answers.append((type(error), error.code))
        assert answers[0] == answers[1]
        return answers[0]

    def touch(self, digest: str) -> None:
        self.order.remove(digest)
        self.order.append(digest)

    @rule(digest=digests, keep=keeps)
    def place(self, digest: str, keep: set[str]) -> None:
        before = self.slots.resident()
        known = digest in self.order
        free = set(self.order) - keep - set(self.held.values())
        evictable = [d for d in self.order if d in free]
        answer = self.both("place", digest, ROWS[digest], keep=keep)
        match answer:
            case (Slot() as slot, tuple() as evicted):
                assert (slot.digest, slot.rows) == (digest, ROWS[digest])
                self.check_evictions(known, evicted, evictable, before)
                self.order = [d for d in self.order if d not in evicted]
                if known:
                    assert slot in before
                    self.touch(digest)
                else:
                    self.order.append(digest)
            case _:
                assert answer == (Unavailable, "bank_full")
                assert not known
                assert self.slots.resident() == before
                assert not fits([s for s in before if s.digest not in evictable], ROWS[digest])

    def check_evictions(
        self,
        known: bool,
        evicted: tuple[str, ...],
        evictable: list[str],
        before: tuple[Slot, ...],
    ) -> None:
        if known:
            assert evicted == ()
            return
        assert set(evicted) <= set(evictable)
        if evicted:
            # No shorter run of the least recent ones would have made room.
            last = max(evictable.index(d) for d in evicted)
            rows = self.slots.resident()[-1].rows
            assert not fits([s for s in before if s.digest not in evictable[:last]], rows)

    @rule(digest=digests)
    def evict(self, digest: str) -> None:
        answer = self.both("evict", digest)
        if digest in self.held.values():
            assert answer == (Conflict, "version_in_use")
        elif digest in self.order:
            assert isinstance(answer, Slot)
            self.order.remove(digest)
        else:
            assert answer is None

    @rule(digest=digests, holder=holders)
    def hold(self, digest: str, holder: str) -> None:
        answer = self.both("hold", digest, holder)
        self.held.pop(holder, None)
        if digest in self.order:
            assert isinstance(answer, Slot)
            self.held[holder] = digest
            self.touch(digest)
        else:
            assert answer is None

    @rule(holder=holders)
    def release(self, holder: str) -> None:
        self.both("release", holder)
        self.held.pop(holder, None)

    @invariant()
    def residents_are_the_models_in_its_order(self) -> None:
        assert [slot.digest for slot in self.slots.resident()] == self.order
        assert self.slots.resident() == self.twin.resident()

    @invariant()
    def slots_are_in_bounds_and_never_overlap(self) -> None:
        rows = [row for slot in self.slots.resident() for row in range(slot.start, slot.stop)]
        assert len(rows) == len(set(rows)) == self.slots.used
        assert all(0 <= row < CAPACITY for row in rows)

    @invariant()
    def held_versions_are_resident_and_counted(self) -> None:
        for digest in DIGESTS:
            count = list(self.held.values()).count(digest)
            assert self.slots.holders(digest) == count
            assert not count or self.slots.find(digest)
        assert all(self.slots.digest_of(holder) == d for holder, d in self.held.items())


def fits(slots: list[Slot], rows: int) -> bool:
    """Whether ``rows`` neighbouring rows are free between ``slots``, row by row."""
    taken = {row for slot in slots for row in range(slot.start, slot.stop)}
    return any(taken.isdisjoint(range(start, start + rows)) for start in range(CAPACITY - rows + 1))


TestSlotsMachine = SlotsMachine.TestCase
TestSlotsMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_new_map_is_empty() -> None:
    slots = Slots(4)
    assert (slots.used, slots.resident(), slots.find("a")) == (0, (), None)


def test_the_first_version_gets_the_lowest_rows() -> None:
    assert Slots(10).place("a", 4) == (Slot("a", 0, 4), ())


def test_a_version_as_large_as_the_bank_fits() -> None:
    assert Slots(10).place("a", 10)[0].stop == 10


@pytest.mark.parametrize("rows", [11, 0, -1])
def test_what_can_never_fit_is_a_bad_request(rows: int) -> None:
    with pytest.raises(BadRequest) as caught:
        Slots(10).place("a", rows)
    assert caught.value.code == "bank_too_small"


def test_the_least_recently_placed_is_evicted_first() -> None:
    slots = Slots(4)
    slots.place("a", 2)
    slots.place("b", 2)
    assert slots.place("c", 2) == (Slot("c", 0, 2), ("a",))


def test_an_evicted_version_has_no_rows_any_more() -> None:
    slots = Slots(4)
    slots.place("a", 4)
    slots.place("b", 4)
    assert slots.find("a") is None
    assert slots.hold("a", "r") is None


def test_the_next_version_begins_where_the_last_one_ends() -> None:
    slots = Slots(6)
    slots.place("a", 2)
    assert slots.place("b", 3) == (Slot("b", 2, 3), ())


def test_placing_again_counts_as_use() -> None:
    slots = Slots(4)
    slots.place("a", 2)
    slots.place("b", 2)
    slots.place("a", 2)
    assert slots.place("c", 1)[1] == ("b",)


def test_holding_counts_as_use_also_after_its_release() -> None:
    slots = Slots(4)
    slots.place("a", 2)
    slots.place("b", 2)
    slots.hold("a", "r")
    slots.release("r")
    assert slots.place("c", 1)[1] == ("b",)


def test_a_gap_that_fits_is_used_before_anything_is_evicted() -> None:
    slots = Slots(6)
    for digest in "abc":
        slots.place(digest, 2)
    slots.evict("b")
    assert slots.place("d", 2) == (Slot("d", 2, 2), ())


def test_only_versions_in_the_way_are_evicted() -> None:
    slots = Slots(6)
    for digest, rows in (("a", 1), ("b", 2), ("c", 3)):
        slots.place(digest, rows)
    slots.hold("b", "r")
    # "a" goes first but leaves too little room; "c" alone makes enough.
    assert slots.place("d", 3) == (Slot("d", 3, 3), ("c",))
    assert slots.find("a") is not None


def test_a_held_version_is_never_evicted_for_a_newcomer() -> None:
    slots = Slots(4)
    slots.place("a", 4)
    slots.hold("a", "r")
    with pytest.raises(Unavailable) as caught:
        slots.place("b", 1)
    assert (caught.value.code, caught.value.retry_after) == ("bank_full", 1)


def test_a_kept_version_is_never_evicted_for_a_newcomer() -> None:
    slots = Slots(4)
    slots.place("a", 4)
    with pytest.raises(Unavailable, match="0 of 4 rows are free"):
        slots.place("b", 1, keep={"a"})


def test_rows_that_are_free_but_not_in_one_piece_are_not_enough() -> None:
    slots = Slots(6)
    for digest in "abc":
        slots.place(digest, 2)
    slots.evict("a")
    slots.evict("c")
    with pytest.raises(Unavailable):
        slots.place("d", 3, keep={"b"})


def test_a_held_version_can_not_be_evicted() -> None:
    slots = Slots(4)
    slots.place("a", 4)
    slots.hold("a", "r")
    with pytest.raises(Conflict) as caught:
        slots.evict("a")
    assert caught.value.code == "version_in_use"


def test_a_version_is_held_until_its_last_holder_releases_it() -> None:
    slots = Slots(4)
    slots.place("a", 4)
    slots.hold("a", "r")
    slots.hold("a", "s")
    slots.release("r")
    assert slots.holders("a") == 1
    slots.release("s")
    assert slots.evict("a") == Slot("a", 0, 4)


def test_a_holder_that_holds_again_counts_once() -> None:
    slots = Slots(4)
    slots.place("a", 4)
    slots.hold("a", "r")
    slots.hold("a", "r")
    assert slots.holders("a") == 1


def test_holding_what_is_not_resident_holds_nothing() -> None:
    slots = Slots(4)
    assert slots.hold("a", "r") is None
    assert slots.holders("a") == 0


def test_releasing_a_stranger_is_fine() -> None:
    Slots(4).release("nobody")


@given(
    st.lists(st.tuples(digests, st.booleans(), st.booleans()), max_size=12),
    st.sets(digests, max_size=3),
)
def test_something_spare_finds_as_much_room_as_is_said(
    placed: list[tuple[str, bool, bool]], gone: set[str]
) -> None:
    slots = Slots(CAPACITY)
    for digest, spare, held in placed:
        try:
            slots.place(digest, ROWS[digest], spare=spare)
        except Unavailable:
            continue
        if held:
            slots.hold(digest, f"holder of {digest}")
    for digest in gone:
        slots.release(f"holder of {digest}")
        slots.evict(digest)
    room = slots.spare_room
    if room:
        copy.deepcopy(slots).place("new", room, spare=True)
    if room < CAPACITY:
        with pytest.raises(Unavailable):
            slots.place("new", room + 1, spare=True)

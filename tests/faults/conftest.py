"""How many rounds of each fault: a few in the tests, many by `make faults`."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from faults.processes import Nursery, nursery


class Luck:
    """Where and how often faults strike.

    Attributes:
        chance: of one test, the same on every run unless `make faults` gives another seed.
    """

    def __init__(self, test: str) -> None:
        self.chance = random.Random(f"{os.environ.get('FAULT_SEED', '1')} {test}")

    def rounds(self, few: int) -> range:
        """``few``, or as many as `make faults` asks for."""
        return range(int(os.environ.get("FAULT_ROUNDS", few)))


@pytest.fixture
def luck(request: pytest.FixtureRequest) -> Luck:
    """This test's."""
    return Luck(request.node.name)


@pytest.fixture(scope="session")
def servers() -> Iterator[Nursery]:
    """Where server processes come from."""
    with nursery() as made:
        yield made

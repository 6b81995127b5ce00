"""How many rounds of each fault: a few in the tests, many by `make faults`."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import pytest
from faults.processes import Nursery, nursery


@pytest.fixture(scope="session")
def servers() -> Iterator[Nursery]:
    """Where server processes come from."""
    with nursery() as made:
        yield made


@pytest.fixture
def rounds() -> Callable[[int], int]:
    """``few``, or what `make faults` asks for."""
    return lambda few: int(os.environ.get("FAULT_ROUNDS", few))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Of this test, the same on every run unless `make faults` gives another seed."""
    return random.Random(f"{os.environ.get('FAULT_SEED', 1)} {request.node.name}")

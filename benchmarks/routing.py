"""What does choosing a version cost, and what does following a large catalogue?

One process, no engine, no network. A catalogue in SQLite is filled with prompts of a few versions,
each with a rollout of two arms, and with some prompts for each case below; the snapshot is built
from it as a server does after every change. Then each case is decided for random prompts and keys,
timed one decision at a time: `choose` is all that a request does to resolve its name. In cases with
rules none of them matches, so that each is looked at, unless the case says otherwise.

    python benchmarks/routing.py                       # 10,000 prompts, a minute
    python benchmarks/routing.py --results FILE.md     # and keep the tables
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from side_by_side import machine
from sqlalchemy import insert, update

from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.database import Database, url_of
from softprompt_serve.registry.tables import AliasRow, RolloutRow, StateRow, VersionRow, now
from softprompt_serve.rollout.spec import RolloutSpec
from softprompt_serve.router.ask import Ask
from softprompt_serve.router.choose import choose

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.registry.snapshot import Snapshot, Version

EACH = 20  # prompts per case
CHANGES = 50  # that are followed, one after another
ANY = "2 arms, 1 rule; any of all prompts"
MIB = 1024 * 1024


class Case(NamedTuple):
    """Decisions that are alike: which prompts, asked how."""

    label: str
    prompts: list[str]
    ask: Callable[[str], Ask]
    selector: str = ""
    resident: Callable[[Version], bool] = lambda _: True


class Timing(NamedTuple):
    """Microseconds per decision."""

    median: float
    p99: float
    longest: float


def document(arms: int, rules: int) -> str:
    """A rollout with as many arms and rules; the rules by cohort, route, tools and headers."""
    kinds: list[dict[str, Any]] = [
        {"cohort": ["regulated", "multilingual"]},
        {"route": ["planner"], "tools": True},
        {"headers": {"x-tier": ["gold", "silver"]}},
        {"visible_tokens": {"min": 100_000}},
    ]
    spec = RolloutSpec.model_validate(
        {
            "arms": [{"version": f"v{n + 1}", "weight": 1000 + n} for n in range(arms)],
            "rules": [
                {"name": f"rule-{n}", "match": kinds[n % len(kinds)], "version": "v1"}
                for n in range(rules)
            ],
        }
    )
    return spec.model_dump_json()


def rows(prompt: str, versions: int, rollout: str | None) -> dict[type, list[dict[str, Any]]]:
    """A prompt as the catalogue stores it."""
    found: dict[type, list[dict[str, Any]]] = {
        VersionRow: [
            {
                "prompt": prompt,
                "name": f"v{n + 1}",
                "digest": f"{random.getrandbits(256):064x}",
                "kind": "soft",
                "virtual_tokens": 20,
                "hidden_size": 4096,
                "dtype": "float32",
                "text": None,
                "wanted": True,
                "record": '{"training_dataset": "tickets", "dataset_version": "2026-11"}',
                "created_at": now(),
                "created_by": "a-trainer",
                "removed_at": None,
            }
            for n in range(versions)
        ],
        AliasRow: [{"prompt": prompt, "name": "production", "version": "v1"}],
    }
    if rollout is not None:
        weights = {arm.version: arm.weight for arm in RolloutSpec.model_validate_json(rollout).arms}
        found[RolloutRow] = [
            {
                "prompt": prompt,
                "generation": 3,
                "epoch": 3,
                "state": "static",
                "reason": "",
                "spec": rollout,
                "weights": str(weights).replace("'", '"'),
                "step": None,
                "step_since": None,
                "step_base": 0,
                "updated_at": now(),
                "updated_by": None,
            }
        ]
    return found


def fill(database: Database, prompts: list[tuple[str, int, str | None]]) -> None:
    """Store prompts at once: how long single changes take is not the question here."""
    everything: dict[type, list[dict[str, Any]]] = {}
    for prompt in prompts:
        for table, found in rows(*prompt).items():
            everything.setdefault(table, []).extend(found)
    with database.writing() as session:
        for table, found in everything.items():
            session.execute(insert(table), found)
        session.execute(update(StateRow).values(revision=StateRow.revision + 1))


def special(options: argparse.Namespace) -> list[tuple[str, int, str | None]]:
    """The prompts of each case."""
    shapes = {
        (arms, rules): document(arms, rules) for arms in options.arms for rules in options.rules
    }
    found: list[tuple[str, int, str | None]] = [
        (f"arms-{arms}-rules-{rules}-{n}", max(arms, options.versions), text)
        for (arms, rules), text in shapes.items()
        for n in range(EACH)
    ]
    return found + [(f"plain-{n}", options.versions, None) for n in range(EACH)]


def cases(options: argparse.Namespace) -> list[Case]:
    """What is decided."""
    usual = [f"prompt-{n}" for n in range(options.prompts)]
    plain = [f"plain-{n}" for n in range(EACH)]
    found = [
        Case("production, no rollout", plain, Ask),
        Case("pinned by the model's name", usual, Ask, "@v2"),
        Case("pinned by the header", usual, lambda key: Ask(key, pinned="v2")),
        Case(ANY, usual, Ask),
        Case("the same, the rule matches", usual, lambda key: Ask(key, cohort="regulated")),
        Case("the same, v2 not resident", usual, Ask, resident=lambda v: v.version != "v2"),
    ]
    found += [
        Case(
            f"{arms} arm{'s'[: arms > 1]}, {rules} rules",
            [f"arms-{arms}-rules-{rules}-{n}" for n in range(EACH)],
            Ask,
        )
        for rules in options.rules
        for arms in options.arms
    ]
    return found


def timed(snapshot: Snapshot, case: Case, enough: Callable[[int], bool]) -> Timing:
    """Time decisions, each on its own, until enough; what the clock itself takes is included."""
    clock, taken = time.perf_counter_ns, []
    while not enough(len(taken)):
        model = random.choice(case.prompts) + case.selector
        ask = case.ask(f"user-{random.getrandbits(40)}")
        begun = clock()
        choose(snapshot, model, ask, resident=case.resident)
        taken.append(clock() - begun)
    taken.sort()
    count = len(taken)
    return Timing(taken[count // 2] / 1e3, taken[count * 99 // 100] / 1e3, taken[-1] / 1e3)


def during(snapshot: Snapshot, case: Case, follow: Callable[[], object]) -> Timing:
    """The same while another thread follows changes, as a server does."""
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(follow)
        return timed(snapshot, case, lambda _: reading.done())


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The median of some rounds."""
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def following(catalogue: Catalogue, snapshot: Snapshot, changes: int) -> float:
    """The median of seconds from a change that is made to the snapshot that has it."""
    taken, names = [], list(snapshot.prompts)
    for number in range(changes):
        catalogue.set_alias(names[number % len(names)], f"alias-{number}", "v1")
        begun = time.perf_counter()
        snapshot = catalogue.snapshot(snapshot)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def memory(work: Callable[[], object]) -> float:
    """MiB that the outcome of ``work`` keeps."""
    gc.collect()
    tracemalloc.start()
    kept = work()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return size / MIB


def measured(options: argparse.Namespace, folder: Path) -> str:
    """Fill, build, decide: two Markdown tables."""
    random.seed(options.seed)
    url, usual = url_of(folder / "catalogue.db"), document(2, 1)
    database, catalogue = Database.open(url), Catalogue.open(url)
    try:
        fill(database, [(f"prompt-{n}", options.versions, usual) for n in range(options.prompts)])
        size = catalogue_table(catalogue, options)
        fill(database, special(options))
        snapshot = catalogue.snapshot()
        asked = cases(options)
        found = [(case, timed(snapshot, case, options.decisions.__le__)) for case in asked]
        many = next(case for case in asked if case.label == ANY)
        busy = during(snapshot, many, lambda: following(catalogue, snapshot, CHANGES))
    finally:
        catalogue.close()
        database.close()
    lines = [
        "| decision | median (µs) | p99 (µs) |",
        "| --- | ---: | ---: |",
        *(f"| {case.label} | {t.median:.2f} | {t.p99:.2f} |" for case, t in found),
        f"| {many.label}, while changes are followed | {busy.median:.2f} | {busy.p99:.2f} |",
    ]
    pause = f"The longest decision in that time took {busy.longest / 1e3:.1f} ms."
    return "\n".join([*lines, "", pause, "", size])


def catalogue_table(catalogue: Catalogue, options: argparse.Namespace) -> str:
    """How large the usual catalogue is, and how long following it takes."""
    snapshot = catalogue.snapshot()
    whole = seconds(catalogue.snapshot, options.rounds)
    gc.disable()
    uncollected = seconds(catalogue.snapshot, options.rounds)
    gc.enable()
    facts = {
        "read it all and build the snapshot": f"{whole:.3f} s",
        "the same, Python's garbage collector off": f"{uncollected:.3f} s",
        "follow one change": f"{following(catalogue, snapshot, CHANGES) * 1e3:.2f} ms",
        "look whether anything changed": f"{seconds(catalogue.revision, 50) * 1e3:.2f} ms",
        "memory of the snapshot": f"{memory(catalogue.snapshot):.1f} MiB",
    }
    head = f"{len(snapshot.prompts):,} prompts, {len(snapshot.versions()):,} versions"
    return "\n".join(
        [f"| {head} | |", "| --- | ---: |", *(f"| {fact} | {v} |" for fact, v in facts.items())]
    )


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument(
        "--versions", type=int, default=3, help="of each prompt, or as many as arms"
    )
    parser.add_argument("--arms", type=int, nargs="+", default=[1, 2, 10, 100])
    parser.add_argument("--rules", type=int, nargs="+", default=[0, 10, 100])
    parser.add_argument("--decisions", type=int, default=50_000, help="of each case")
    parser.add_argument("--rounds", type=int, default=5, help="of building the snapshot")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="write the tables into this file, too")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run and print two Markdown tables."""
    options = arguments(given)
    with tempfile.TemporaryDirectory() as scratch:
        tables = measured(options, Path(scratch))
    where = f"{machine()} SQLAlchemy {version('sqlalchemy')}, pydantic {version('pydantic')}."
    print(f"{tables}\n\n{where}")
    if options.results:
        options.results.write_text(f"# What routing costs\n\n{where}\n\n{tables}\n")


if __name__ == "__main__":
    main()

"""Break the overlay on purpose and see that a test fails for it: ``make mutate``.

    python scripts/mutate.py [--quick] [--only TEXT] [--json]

Each defect of ``scripts/mutations.py`` is put into a copy of the installed package, never into the package
itself, and the test that is named there must fail on it by an assertion; an error on import doesn't count.
On an unbroken copy all of them must pass. vLLM and torch are imported once: each copy has a fork of this
process.

The exit status is 1 if a defect goes unnoticed, or isn't one any more.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from mutations import MUTATIONS, QUICK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mutation import Mutation

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = "softprompt_serve"
JOBS: Final = 2
TIMEOUT_SECONDS: Final = 120
# What the tests import and takes long; nothing of ours, which must come from the copy.
HEAVY: Final = (
    *("torch", "fastapi.testclient", "numpy", "sqlalchemy", "alembic"),
    *("vllm", "vllm.v1.worker.gpu_input_batch", "vllm.v1.core.sched.scheduler"),
    *("vllm.v1.worker.gpu.model_states.prompt_embeds", "vllm.renderers.online_renderer"),
    *("vllm.entrypoints.openai.chat_completion.serving", "vllm.entrypoints.anthropic.serving"),
)


@dataclass(eq=False)  # pytest keeps plugins in a set
class Watcher:
    """A pytest plugin: what ran, and how it ended."""

    passed: list[str] = field(default_factory=list)
    asserted: list[str] = field(default_factory=list)  # failed by an assertion
    broke: list[str] = field(default_factory=list)  # failed in another way, or could not begin

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Iterator[None]:
        """Sort one phase of one test."""
        report: Any = yield
        if report.failed:
            kinds = (AssertionError, pytest.fail.Exception)
            by_assertion = call.when == "call" and call.excinfo.errisinstance(kinds)
            (self.asserted if by_assertion else self.broke).append(item.nodeid)
        elif call.when == "call":
            self.passed.append(item.nodeid)
        return report  # type: ignore[no-any-return]

    def pytest_collectreport(self, report: Any) -> None:
        """A file that can't be imported."""
        if report.failed:
            self.broke.append(f"{report.nodeid}: {report.longrepr}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one defect: ``caught``, or how it was not."""

    name: str
    caught_by: str
    verdict: str

    @property
    def caught(self) -> bool:
        """Whether the test noticed it."""
        return self.verdict == "caught"


def package_folder() -> Path:
    """Where the package is that tests would import; it is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(f"error: {PACKAGE} is not installed")
    return Path(spec.origin).parent


def mutated(text: str, mutation: Mutation) -> str:
    """The file's text with the defect.

    Raises:
        ValueError: the text to be replaced isn't there exactly once.
    """
    if (count := text.count(mutation.before)) != 1:
        msg = f"{mutation.file} has `{mutation.before}` {count} times, expected once"
        raise ValueError(msg)
    return text.replace(mutation.before, mutation.after)


def lay_copy(package: Path, root: Path, mutation: Mutation | None) -> None:
    """Make ``root`` hold the package, as links but for the file that is broken."""
    if mutation is None:
        (root / PACKAGE).symlink_to(package)
        return
    *folders, file = mutation.file.split("/")
    source, target = package, root / PACKAGE
    for part in (*folders, file):
        target.mkdir()
        for entry in source.iterdir():
            if entry.name != part:
                (target / entry.name).symlink_to(entry)
        source, target = source / part, target / part
    target.write_text(mutated(source.read_text(), mutation))


def run(root: Path, tests: Iterable[str]) -> Watcher:
    """Run tests in this process, on the copy in ``root``."""
    os.chdir(ROOT)
    sys.path.insert(0, str(root))
    watcher = Watcher()
    options = ["-q", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that vLLM imports
    status = pytest.main([*options, *(f"tests/{test}" for test in tests)], plugins=[watcher])
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        watcher.broke.append(f"pytest ended with {status!r}")
    loaded = sys.modules.get(PACKAGE)
    if loaded is None or not str(loaded.__file__).startswith(str(root)):
        watcher.broke.append(f"{PACKAGE} did not come from the copy")
    return watcher


def fork(root: Path, tests: Iterable[str], answer: Path) -> int:
    """Run tests in a fork of this process, which writes what it saw to ``answer``; its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        signal.alarm(TIMEOUT_SECONDS)
        sys.dont_write_bytecode = True  # the links lead to the package's own cache
        with answer.with_suffix(".log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            answer.write_text(json.dumps(asdict(run(root, tests))))
    except BaseException:  # noqa: BLE001 - whatever it is, the fork must not go on as this process
        traceback.print_exc()
    finally:
        os._exit(0)


def verdict(answer: Path) -> str:
    """What a run on a broken copy shows."""
    if not answer.exists():
        log = answer.with_suffix(".log")
        return "did not end: " + (log.read_text().strip()[-500:] if log.exists() else "no answer")
    seen = Watcher(**json.loads(answer.read_text()))
    if seen.asserted:
        return "caught"
    if seen.broke:
        return f"failed by no assertion: {seen.broke[0]}"
    return "survived" if seen.passed else "no test ran"


def baseline(package: Path, scratch: Path, mutations: Sequence[Mutation]) -> list[str]:
    """Tests that don't pass on an unbroken copy, or don't exist."""
    root = scratch / "unbroken"
    root.mkdir()
    lay_copy(package, root, None)
    answer = scratch / "unbroken.json"
    tests = sorted({mutation.caught_by for mutation in mutations})
    os.waitpid(fork(root, tests, answer), 0)
    if not answer.exists():
        return [verdict(answer)]
    seen = Watcher(**json.loads(answer.read_text()))
    ran = {name.removeprefix("tests/").partition("[")[0] for name in seen.passed}
    absent = [f"{test} did not run" for test in tests if test not in ran]
    problems = [*seen.asserted, *seen.broke, *absent]
    return [*problems, answer.with_suffix(".log").read_text()] if problems else []


def outcomes(package: Path, scratch: Path, mutations: Sequence[Mutation]) -> Iterator[Outcome]:
    """Try each defect, some at a time; in the table's order."""
    running: dict[int, int] = {}
    answers = [scratch / f"{number}.json" for number in range(len(mutations))]
    for number, mutation in enumerate(mutations):
        root = scratch / str(number)
        root.mkdir()
        lay_copy(package, root, mutation)
        running[fork(root, [mutation.caught_by], answers[number])] = number
        if len(running) == JOBS:
            running.pop(os.wait()[0], None)
    for child in running:
        os.waitpid(child, 0)
    for mutation, answer in zip(mutations, answers, strict=True):
        yield Outcome(mutation.name, mutation.caught_by, verdict(answer))


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all, print, and say by the exit status how it went."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="those whose name has TEXT; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="one of each kind")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    chosen = [
        mutation
        for mutation in MUTATIONS
        if any(text in mutation.name for text in given.only or [""])
        and (not given.quick or mutation.name in QUICK)
    ]
    if not chosen:
        parser.error("no defect has that in its name; scripts/mutations.py lists them")
    package = package_folder()
    for name in HEAVY:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        if failing := baseline(package, Path(folder), chosen):
            print("Without any defect:\n" + "\n".join(failing), file=sys.stderr)
            return 1
        found = list(outcomes(package, Path(folder), chosen))
    if given.json:
        print(json.dumps([asdict(outcome) for outcome in found], indent=2))
    else:
        for outcome in found:
            print(f"  {outcome.verdict:10} {outcome.name} ({outcome.caught_by})")
    missed = [outcome for outcome in found if not outcome.caught]
    print(f"{len(found) - len(missed)} of {len(found)} defects are caught", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())

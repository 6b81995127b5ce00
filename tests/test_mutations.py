"""Defects on purpose: the table is current, and one of each kind is noticed (all: ``make mutate``)."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mutate
import pytest
from mutation import Mutation
from mutations import MUTATIONS, QUICK

import softprompt_serve

PACKAGE = Path(softprompt_serve.__file__).parent
TESTS = Path(__file__).parent


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_defect_changes_one_place_that_is_still_there(mutation: Mutation) -> None:
    text = (PACKAGE / mutation.file).read_text()
    broken = mutate.mutated(text, mutation)
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(text))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_test_that_catches_it_exists(mutation: Mutation) -> None:
    file, _, name = mutation.caught_by.partition("::")
    tree = ast.parse((TESTS / file).read_text())
    defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in defined


def test_a_defect_whose_place_is_gone_is_said() -> None:
    with pytest.raises(ValueError, match="expected once"):
        mutate.mutated("return rows\n", replace(MUTATIONS[0], before="return row[0]"))


def test_names_are_unique_and_the_quick_ones_exist() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names)
    assert set(QUICK) <= set(names)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        ({"passed": ["t"], "asserted": ["t"], "broke": []}, "caught"),
        ({"passed": ["t"], "asserted": [], "broke": []}, "survived"),
        ({"passed": [], "asserted": [], "broke": []}, "no test ran"),
        ({"passed": [], "asserted": [], "broke": ["t"]}, "failed by no assertion: t"),
    ],
)
def test_only_an_assertion_that_failed_has_caught_a_defect(
    tmp_path: Path, seen: dict[str, list[str]], verdict: str
) -> None:
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps(seen))
    assert mutate.verdict(answer) == verdict


def test_a_copy_is_broken_in_one_file_and_the_package_in_none(tmp_path: Path) -> None:
    mutation = MUTATIONS[0]
    before = (PACKAGE / mutation.file).read_bytes()
    mutate.lay_copy(PACKAGE, tmp_path, mutation)
    copy = tmp_path / "softprompt_serve"
    assert mutation.after in (copy / mutation.file).read_text()
    assert (copy / "bank" / "slots.py").resolve() == (PACKAGE / "bank" / "slots.py").resolve()
    assert (PACKAGE / mutation.file).read_bytes() == before


def test_one_defect_of_each_kind_is_caught() -> None:
    command = [sys.executable, mutate.__file__, "--quick", "--json"]
    path = os.pathsep.join([str(PACKAGE.parent), str(Path(mutate.__file__).parent)])
    environ = {**os.environ, "PYTHONPATH": path}  # break what is tested here
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {outcome["name"]: outcome["verdict"] for outcome in json.loads(done.stdout)}
    assert outcomes == dict.fromkeys(QUICK, "caught")

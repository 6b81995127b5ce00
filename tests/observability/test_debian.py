"""Tools from Debian are found, fetched, or named."""

from __future__ import annotations

import os
from pathlib import Path

import debian
import pytest


@pytest.fixture(autouse=True)
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is unpacked, and nothing is on the path but what a test puts there."""
    monkeypatch.setattr(debian, "UNPACKED", tmp_path / "tools")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "tools"


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{text}\n")
    path.chmod(0o755)
    return path


def test_what_is_on_the_path_is_taken(tmp_path: Path) -> None:
    there = script(tmp_path / "bin" / "a-tool", "exit 0")
    assert debian.tool("a-tool", "a-package") == there


def test_root_installs_and_brings_the_lists_up_to_date_if_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    folder, log = tmp_path / "bin", tmp_path / "log"
    script(
        folder / "apt-get",
        f'echo "$@" >> {log}\n'
        f'[ "$1" = update ] && exit 0\n'
        f"grep -q update {log} || exit 100\n"
        f"printf '#!/bin/sh\\n' > {folder}/a-tool; chmod +x {folder}/a-tool",
    )
    assert debian.tool("a-tool", "a-package") == folder / "a-tool"
    install = "install -y --no-install-recommends a-package"
    assert log.read_text().splitlines() == [install, "update", install]


def test_others_get_it_unpacked_beside_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpacked: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    script(tmp_path / "bin" / "apt-get", '[ "$1" = download ] && : > a-package_1_all.deb')
    script(
        tmp_path / "bin" / "dpkg",
        'mkdir -p "$3/usr/bin"; printf "#!/bin/sh\\n" > "$3/usr/bin/a-tool"\n'
        'chmod +x "$3/usr/bin/a-tool"',
    )
    found = debian.tool("a-tool", "a-package")
    assert found == unpacked / "usr" / "bin" / "a-tool"
    assert not list(unpacked.glob("*.deb"))
    assert debian.tool("a-tool", "a-package") == found


def test_what_cannot_be_had_is_named_with_its_package_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(debian.MissingToolError, match=r"`a-package`.*no apt-get"):
        debian.tool("a-tool", "a-package")
    script(tmp_path / "bin" / "apt-get", "echo no network >&2; exit 100")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(debian.MissingToolError, match="no network"):
        debian.tool("a-tool", "a-package")


def test_a_server_is_unpacked_for_root_too_because_installing_would_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpacked: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(debian, "SERVICES", frozenset({"a-package"}))
    script(
        tmp_path / "bin" / "apt-get",
        '[ "$1" = download ] || exit 100\n: > a-package_1_all.deb',
    )
    script(
        tmp_path / "bin" / "dpkg",
        'mkdir -p "$3/usr/sbin"; printf "#!/bin/sh\\n" > "$3/usr/sbin/a-tool"\n'
        'chmod +x "$3/usr/sbin/a-tool"',
    )
    assert debian.tool("a-tool", "a-package") == unpacked / "usr" / "sbin" / "a-tool"

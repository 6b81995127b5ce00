"""``softprompt-serve serve``: what is added to the flags and the environment of ``vllm serve``."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

import pytest

from softprompt_serve.errors import BadRequest, StartupRefused
from softprompt_serve.vllm_plugin import launch, seam, seams
from softprompt_serve.vllm_plugin.seam import Seam
from softprompt_serve.vllm_plugin.worker import EXTENSION

RESERVED = "VLLM_CPU_NUM_OF_RESERVED_CPU"
OURS = [
    "--enable-prompt-embeds",
    "--enable-prompt-tokens-details",
    "--worker-extension-cls",
    EXTENSION,
    "--scheduling-policy",
    "priority",
    "--kv-transfer-config",
    json.dumps(
        {
            "kv_connector": "DeepPrompts",
            "kv_connector_module_path": "softprompt_serve.vllm_plugin.deep",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "fail",
        }
    ),
]


def test_the_needed_flags_are_added() -> None:
    assert launch.serve_arguments(["model"]) == ["model", *OURS]


def test_another_kv_connector_is_left_to_the_checks_that_refuse_it() -> None:
    given = ["model", '--kv-transfer-config={"kv_connector": "Other"}']
    assert launch.serve_arguments(given) == [*given, *OURS[:-2]]


def test_without_deep_prompts_there_is_no_kv_connector() -> None:
    assert launch.serve_arguments(["model"], deep=False) == ["model", *OURS[:-2]]


def test_flags_that_were_given_stay_in_their_order() -> None:
    given = ["model", "--port", "8001", "--dtype=float32"]
    assert launch.serve_arguments(given) == [*given, *OURS]


def test_a_flag_that_is_there_is_not_added_again() -> None:
    assert launch.serve_arguments(["model", *OURS]) == ["model", *OURS]


def test_a_flag_with_its_value_attached_counts_as_there() -> None:
    given = ["model", f"--worker-extension-cls={EXTENSION}"]
    assert launch.serve_arguments(given) == [*given, *OURS[:2], *OURS[4:]]


def test_the_given_arguments_are_not_changed() -> None:
    given = ["model"]
    launch.serve_arguments(given)
    assert given == ["model"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "softprompt_serve"),
        ("other", "other,softprompt_serve"),
        ("softprompt_serve,other", "softprompt_serve,other"),
    ],
)
def test_the_plugin_is_named_beside_others(before: str, after: str) -> None:
    assert launch.serve_environment({"VLLM_PLUGINS": before})["VLLM_PLUGINS"] == after


@pytest.mark.parametrize(
    ("environ", "arguments", "cores"),
    [
        ({}, ["model"], "1"),
        ({}, ["model", "--tensor-parallel-size", "2"], "2"),
        ({}, ["model", "-tp=4"], "4"),
        ({RESERVED: "0"}, ["model", "-tp", "2"], "0"),
    ],
)
def test_our_kv_connector_costs_the_workers_no_core(
    environ: dict[str, str], arguments: list[str], cores: str
) -> None:
    assert launch.serve_environment(environ, arguments)[RESERVED] == cores


def test_plugins_that_vllm_loads_unasked_stay_named() -> None:
    named = launch.serve_environment({})["VLLM_PLUGINS"].split(",")
    general = [entry.name for entry in entry_points(group="vllm.general_plugins")]
    assert set(general) | {"softprompt_serve"} <= set(named)
    assert len(named) == len(set(named))


def test_a_model_may_come_by_flag_or_configuration_file() -> None:
    assert launch._names_model(["MODEL"])
    assert launch._names_model(["--port", "1", "--model=M"])
    assert launch._names_model(["--config", "serve.yaml"])
    assert not launch._names_model(["--port", "1"])
    assert not launch._names_model([])


@pytest.fixture
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "softprompt_serve")  # restored after the test
    monkeypatch.setenv(RESERVED, "1")


@pytest.mark.usefixtures("_clean_environment")
@pytest.mark.parametrize("arguments", [[], ["--port", "8001"]])
def test_a_start_without_a_model_says_how(arguments: list[str]) -> None:
    with pytest.raises(StartupRefused, match="serve MODEL") as caught:
        launch.serve(arguments)
    assert caught.value.code == "model_missing"


def test_a_bad_setting_ends_the_start_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_BANK_ROWS", "many")
    with pytest.raises(BadRequest, match="SOFTPROMPT_BANK_ROWS"):
        launch.serve(["model"])


def test_an_unknown_setting_ends_the_start_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_BANK_ROW", "16")
    with pytest.raises(BadRequest, match="SOFTPROMPT_BANK_ROW;"):
        launch.serve(["model"])


def test_an_unsupported_vllm_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "installed_vllm", lambda: ("vllm", "0.1.0"))
    with pytest.raises(StartupRefused, match=r"vllm 0\.1\.0"):
        launch.serve(["model"])


def test_the_extension_named_to_vllm_is_the_one_there_is() -> None:
    module, _, name = EXTENSION.rpartition(".")
    assert hasattr(seam.resolve(f"{module}:{name}"), "softprompt_status")


def test_no_method_of_the_extension_shadows_one_of_the_workers() -> None:
    worker, extension = seam.resolve(seams.WORKER), seam.resolve(EXTENSION.replace(".S", ":S"))
    ours = {name for name in vars(extension) if not name.startswith("__")}
    assert all(name.startswith("softprompt_") for name in ours)
    assert not ours & set(dir(worker))


def test_vllm_traces_to_where_we_do_unless_told_otherwise() -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}
    flags = ["--otlp-traces-endpoint", "http://collector:4317"]
    assert launch.serve_arguments(["model"], environ) == ["model", *OURS, *flags]
    given = ["model", "--otlp-traces-endpoint=http://elsewhere"]
    assert launch.serve_arguments(given, environ) == [*given, *OURS]
    added = launch.serve_environment(environ)
    assert added["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "grpc"
    assert launch.serve_environment({}).keys() == {"VLLM_PLUGINS", RESERVED}


@pytest.mark.usefixtures("_clean_environment")
def test_a_vllm_whose_own_command_moved_ends_the_start_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved = Seam("vllm.entrypoints.launchers.cli_args:gone", "parse flags", "none needed")
    monkeypatch.setattr(seams, "LAUNCH_SEAMS", (moved,))
    with pytest.raises(StartupRefused, match="needed to parse flags") as caught:
        launch.serve(["model"])
    assert caught.value.code == "vllm_seam_moved"

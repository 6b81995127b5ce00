"""Start-up: every condition that soft prompts need is named when it is missing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from softprompt_serve.errors import StartupRefused, Unavailable
from softprompt_serve.settings import Settings
from softprompt_serve.vllm_plugin.geometry import CONNECTOR, CONNECTOR_MODULE
from softprompt_serve.vllm_plugin.probe import (
    _difference,
    architecture_refused,
    check_configuration,
    check_workers,
)
from softprompt_serve.vllm_plugin.worker import EXTENSION


def transfer(**changes: Any) -> Any:
    """Our own connector, as ``serve`` configures it."""
    given = {
        "kv_connector": CONNECTOR,
        "kv_connector_module_path": CONNECTOR_MODULE,
        "kv_load_failure_policy": "fail",
    } | changes
    return SimpleNamespace(**given)


def config(**changes: Any) -> Any:
    """vLLM's configuration, as far as it is read, with everything in order."""
    given: dict[str, Any] = {
        "enable_prompt_embeds": True,
        "worker_extension_cls": EXTENSION,
        "data_parallel_size": 1,
        "kv_transfer_config": None,
        "lora_config": None,
    } | changes
    return SimpleNamespace(
        model_config=SimpleNamespace(enable_prompt_embeds=given["enable_prompt_embeds"]),
        parallel_config=SimpleNamespace(
            worker_extension_cls=given["worker_extension_cls"],
            data_parallel_size=given["data_parallel_size"],
        ),
        kv_transfer_config=given["kv_transfer_config"],
        lora_config=given["lora_config"],
    )


def check(
    environ: dict[str, str] | None = None,
    args: Any = None,
    **changes: Any,
) -> None:
    check_configuration(config(**changes), args or SimpleNamespace(), environ or {})


def refusal(**given: Any) -> str:
    with pytest.raises(StartupRefused) as caught:
        check(**given)
    assert caught.value.code == "bad_configuration"
    return caught.value.message


def test_adapters_are_refused_before_the_probe_would_fail() -> None:
    assert "--enable-lora" in refusal(lora_config=SimpleNamespace(max_loras=1))


def test_a_configuration_in_order_passes() -> None:
    check()
    check(kv_transfer_config=transfer())


def test_the_real_configuration_of_a_server_is_read(vllm_config: Any) -> None:
    with pytest.raises(StartupRefused) as caught:
        check_configuration(vllm_config, SimpleNamespace(), {})
    assert "--enable-prompt-embeds" in caught.value.message
    assert "--worker-extension-cls" in caught.value.message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"enable_prompt_embeds": False}, "--enable-prompt-embeds"),
        ({"worker_extension_cls": ""}, f"--worker-extension-cls {EXTENSION}"),
        ({"worker_extension_cls": "another.Extension"}, f"--worker-extension-cls {EXTENSION}"),
        ({"data_parallel_size": 2}, "--data-parallel-size"),
        ({"kv_transfer_config": transfer(kv_connector="Other")}, "--kv-transfer-config"),
        (
            {"kv_transfer_config": transfer(kv_connector_module_path="elsewhere")},
            "--kv-transfer-config",
        ),
        (
            {"kv_transfer_config": transfer(kv_load_failure_policy="recompute")},
            "kv_load_failure_policy",
        ),
        ({"environ": {"VLLM_USE_RUST_FRONTEND": "1"}}, "VLLM_USE_RUST_FRONTEND"),
        (
            {"environ": {"VLLM_SKIP_MODEL_NAME_VALIDATION": "true"}},
            "VLLM_SKIP_MODEL_NAME_VALIDATION",
        ),
        ({"args": SimpleNamespace(grpc=True)}, "--grpc"),
        (
            {
                "args": SimpleNamespace(api_key=["a-key"]),
                "environ": {"SOFTPROMPT_CALLER_ACCESS": "tokens"},
            },
            "--api-key",
        ),
        (
            {"environ": {"SOFTPROMPT_CALLER_ACCESS": "tokens", "VLLM_API_KEY": "a-key"}},
            "SOFTPROMPT_CALLER_ACCESS",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(changes: dict[str, Any], named: str) -> None:
    assert named in refusal(**changes)


def test_all_problems_are_named_at_once() -> None:
    message = refusal(enable_prompt_embeds=False, data_parallel_size=2)
    assert "--enable-prompt-embeds" in message
    assert "--data-parallel-size" in message


@pytest.mark.parametrize("value", ["0", "", "false", "False"])
def test_a_variable_that_is_off_is_fine(value: str) -> None:
    check(environ={"VLLM_USE_RUST_FRONTEND": value})


def model(architectures: list[str] | None) -> Any:
    return SimpleNamespace(hf_config=SimpleNamespace(architectures=architectures))


def test_an_unverified_architecture_gets_no_soft_versions() -> None:
    assert "GemmaForCausalLM" in (
        architecture_refused(model(["GemmaForCausalLM"]), Settings()) or ""
    )
    assert "unknown" in (architecture_refused(model(None), Settings()) or "")
    assert architecture_refused(model(["LlamaForCausalLM"]), Settings()) is None


def test_an_unverified_architecture_is_tried_where_a_setting_allows_it() -> None:
    settings = Settings(allow_unverified_architecture=True)
    assert architecture_refused(model(["GemmaForCausalLM"]), settings) is None


class Answers:
    """Workers that answer what they are given."""

    def __init__(self, *statuses: Any) -> None:
        self.statuses = statuses

    async def status(self) -> list[Any]:
        if isinstance(self.statuses[0], Exception):
            raise self.statuses[0]
        return list(self.statuses)


def status(**changes: Any) -> dict[str, Any]:
    return {"rank": 0, "patched": True, "problem": None, "bank": True} | changes


@pytest.mark.anyio
async def test_workers_with_an_overlay_pass() -> None:
    workers: Any = Answers(status(), status(rank=1))
    assert len(await check_workers(workers)) == 2


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (status(rank=1, patched=False, bank=False), "general plugin did not run"),
        (status(rank=1, problem="vLLM's X moved"), "vLLM's X moved"),
        (status(rank=1, bank=False), "Worker 1"),
    ],
)
async def test_one_worker_without_an_overlay_ends_the_start(
    bad: dict[str, Any], named: str
) -> None:
    workers: Any = Answers(status(), bad)
    with pytest.raises(StartupRefused, match=named) as caught:
        await check_workers(workers)
    assert caught.value.code == "overlay_inactive"
    assert "Worker 1" in caught.value.message


@pytest.mark.anyio
async def test_workers_without_our_methods_end_the_start() -> None:
    workers: Any = Answers(Unavailable("no attribute softprompt_status"))
    with pytest.raises(StartupRefused, match="softprompt_status"):
        await check_workers(workers)


def test_equal_answers_do_not_differ() -> None:
    assert _difference({1: -0.1, 2: -2.0}, {1: -0.1, 2: -2.0}) == 0


def test_answers_differ_by_their_largest_difference() -> None:
    assert _difference({1: -0.1, 2: -2.0}, {1: -0.2, 2: -2.5}) == 0.5


@pytest.mark.parametrize("other", [{}, {3: -0.1}, {2: -2.0}])
def test_answers_without_the_likeliest_token_differ_without_bound(
    other: dict[int, float],
) -> None:
    assert _difference({1: -0.1, 2: -2.0}, other) == float("inf")

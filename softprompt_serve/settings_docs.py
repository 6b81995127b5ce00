"""``docs/settings.md``, made from :class:`~softprompt_serve.settings.Settings`.

``python -m softprompt_serve.settings_docs`` writes it, ``--check`` only compares.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

import typer
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from softprompt_serve.settings import PREFIX, Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

TARGET: Final = Path("docs/settings.md")
_TYPES: Final[dict[Any, str]] = {
    Path: "path",
    SecretStr: "secret",
    str: "text",
    int: "integer",
    float: "number",
    bool: "`true` or `false`",
}
_BOUNDS: Final = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
_HEAD: Final = """\
<!-- Made by `python -m softprompt_serve.settings_docs`; change softprompt_serve/settings.py. -->
# Settings

Every setting is an environment variable. What is given there counts, else the default; there is
no configuration file. An unknown `SOFTPROMPT_*` variable or a bad value ends the start and is
named in the message. Settings are read once, at start; every process of a server (API servers,
engine, workers) must see the same environment. vLLM's own flags and variables stay vLLM's: see
`vllm serve --help`.

The command line client reads the same variables. `--url` and `--token` come before
`SOFTPROMPT_URL` and `SOFTPROMPT_ADMIN_TOKEN`, and without either token the client takes the one in
`SOFTPROMPT_HOME`.

| variable | default | value | meaning |
| --- | --- | --- | --- |
"""


def render() -> str:
    """The whole page, in Markdown."""
    return _HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items())


def main(
    target: Annotated[Path, typer.Argument(help="Where the page is.")] = TARGET,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit status 1 if it is out of date.")
    ] = False,
) -> None:
    """Write docs/settings.md from the settings class."""
    if not check:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render(), encoding="utf-8")
    elif not target.is_file() or target.read_text(encoding="utf-8") != render():
        typer.echo(f"{target} is out of date: python -m softprompt_serve.settings_docs", err=True)
        raise typer.Exit(1)


def _row(name: str, field: FieldInfo) -> str:
    cells = (f"`{PREFIX}{name.upper()}`", _default(field), _value(field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is None or default is PydanticUndefined:
        return "unset"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _value(field: FieldInfo) -> str:
    """The type, and what narrows it."""
    limits = [
        f"{sign} {found}"
        for fact in field.metadata
        for bound, sign in _BOUNDS
        if (found := getattr(fact, bound, None)) is not None
    ]
    for fact in field.metadata:
        if (shortest := getattr(fact, "min_length", None)) is not None:
            limits.append(f"at least {shortest} characters")
        if (pattern := getattr(fact, "pattern", None)) is not None:
            limits.append(f"matching `{pattern}`")
    return ", ".join([_type(field.annotation), *limits])


def _type(annotation: Any) -> str:
    if get_origin(annotation) in {Union, types.UnionType}:
        annotation = next(kind for kind in get_args(annotation) if kind is not types.NoneType)
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    return _TYPES.get(annotation, getattr(annotation, "__name__", str(annotation)))


if __name__ == "__main__":
    typer.run(main)

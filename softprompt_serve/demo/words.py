"""What the demo tells a person to paste, once its server is ready."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from softprompt_serve.server.auth import TOKEN_FILE
from softprompt_serve.settings import Settings

TICKET: Final = "Hello, I was charged twice for one order. Please pay the second amount back."
_MAX_TOKENS: Final = 8


def ready_text(settings: Settings, url: str, seconds: float, *, needs_key: bool = False) -> str:
    """A curl line, a snippet for the openai client, where the token is, how to switch versions."""
    key = "YOUR_API_KEY" if needs_key else "unused"
    given = settings.admin_token is not None
    token = "SOFTPROMPT_ADMIN_TOKEN" if given else str(settings.home_dir / TOKEN_FILE)
    console = f"Console: {url}/softprompts/\n" if settings.console else ""
    return f"""\
Ready at {url} after {seconds:.0f} s. The prompt `support` sorts tickets.

{curl(url, key if needs_key else None)}

from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{key}")
answer = client.chat.completions.create(
    model="support",  # or support@v1, support@v3, or the base model's own name
    messages=[{{"role": "user", "content": {json.dumps(TICKET)}}}],
    max_tokens={_MAX_TOKENS},
    temperature=0,
)
print(answer.model, answer.choices[0].message.content)

Which versions there are, and what `support` alone stands for:
  {cli_line(settings, url, "list")}
  {cli_line(settings, url, "alias support production v3")}
{console}Admin token: {token}"""


def curl(url: str, key: str | None = None) -> str:
    """One line for a shell."""
    body = {
        "model": "support",
        "messages": [{"role": "user", "content": TICKET}],
        "max_tokens": _MAX_TOKENS,
        "temperature": 0,
    }
    headers = ["content-type: application/json"]
    if key is not None:
        headers.append(f"authorization: Bearer {key}")
    given = " ".join(f"-H {shlex.quote(header)}" for header in headers)
    return f"curl -s {url}/v1/chat/completions {given} -d {shlex.quote(json.dumps(body))}"


def cli_line(settings: Settings, url: str, arguments: str) -> str:
    """A call of our command line that reaches the server at ``url``, whatever the shell's PATH."""
    beside = Path(sys.executable).with_name("softprompt-serve")
    name = "softprompt-serve"
    if shutil.which(name) is None and beside.is_file():
        shown = beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside
        name = shlex.quote(str(shown))
    variables = ""
    if settings.home != Settings.model_fields["home"].default:
        variables = f"SOFTPROMPT_HOME={shlex.quote(str(settings.home_dir))} "
    elsewhere = "" if url == settings.url.rstrip("/") else f" --url {url}"
    return f"{variables}{name} {arguments}{elsewhere}"

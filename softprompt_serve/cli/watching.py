"""Looking at a rollout again and again: until it is applied, or for as long as a person watches."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Group
from rich.live import Live
from rich.text import Text

from softprompt_serve.cli.client import ApiError, Unreachable, rollout_path
from softprompt_serve.cli.rollout_views import behind, line, rollout
from softprompt_serve.cli.session import output
from softprompt_serve.errors import SoftpromptError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from softprompt_serve.cli.client import Answer, Api
    from softprompt_serve.cli.session import Session
    from softprompt_serve.cli.views import Data

_POLL_SECONDS = 0.1
_AT_LEAST_SECONDS = 60.0
"""How often a log gets a line though nothing but counts has changed."""

_SERVER_ERRORS = 500
_ENDED = frozenset({"none", "static", "promoted", "rolled_back"})


class Show(Protocol):
    """Puts the latest answer before the user, with what went wrong since, if something did."""

    def __call__(self, answer: Answer, trouble: str | None) -> None:
        """Show it."""


def applied(api: Api, prompt: str, answer: Answer, seconds: float) -> Answer:
    """Ask until what ``answer`` says is served by every live replica, or the time is over.

    A change that somebody makes after ours is waited for as well: it stands in ours' place.
    """
    deadline, generation = time.monotonic() + seconds, answer.data["generation"]
    while not answer.data["applied"] or answer.data["generation"] < generation:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(_POLL_SECONDS, left))
        answer, _ = _look(api, prompt, answer)
    return answer


def ended(data: Data) -> bool:
    """Whether a rollout goes nowhere any more, and every replica is there."""
    return data["state"] in _ENDED and (data["applied"] or data["state"] == "none")


def watch(session: Session, prompt: str, *, every: float, until_done: bool) -> Answer:
    """Show a rollout every so many seconds, until it has ended if that is asked; the last answer.

    A server that does not answer for a while is shown as such and asked again.

    Raises:
        ApiError, Unreachable: the first look failed.
    """
    answer, trouble = session.api.get(rollout_path(prompt)), None
    with _showing(session) as show:
        while True:
            show(answer, trouble)
            if until_done and trouble is None and ended(answer.data):
                return answer
            time.sleep(every)
            answer, trouble = _look(session.api, prompt, answer)


def _look(api: Api, prompt: str, before: Answer) -> tuple[Answer, str | None]:
    """The state now; while the server is away, the one before and why."""
    try:
        return api.get(rollout_path(prompt)), None
    except SoftpromptError as error:
        away = isinstance(error, Unreachable)
        if not away and not (isinstance(error, ApiError) and error.http_status >= _SERVER_ERRORS):
            raise
        return before, error.message


@contextmanager
def _showing(session: Session) -> Iterator[Show]:
    console = output()
    if session.as_json:
        yield _as_json
    elif not console.is_terminal:
        yield _Log()
    else:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda answer, trouble: live.update(_view(answer, trouble), refresh=True)


def _as_json(answer: Answer, trouble: str | None) -> None:
    if trouble is None:
        sys.stdout.write(answer.text.rstrip("\n") + "\n")
        sys.stdout.flush()


def _view(answer: Answer, trouble: str | None) -> RenderableType:
    shown = rollout(answer.data, brief=True)
    # On top, as a table that is longer than the terminal loses its end.
    return shown if trouble is None else Group(Text(f"{trouble}\n", style="red"), shown)


class _Log:
    """A line for each change, and now and then one for the counts."""

    def __init__(self) -> None:
        self._said: object = None
        self._at = 0.0

    def __call__(self, answer: Answer, trouble: str | None) -> None:
        data = answer.data
        step = None if data["step"] is None else data["step"]["index"]
        now = (data["generation"], data["state"], step, tuple(behind(data)), trouble)
        if now == self._said and time.monotonic() < self._at + _AT_LEAST_SECONDS:
            return
        self._said, self._at = now, time.monotonic()
        print(
            f"{time.strftime('%H:%M:%S')} {line(data) if trouble is None else trouble}", flush=True
        )

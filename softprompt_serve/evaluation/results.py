"""A run on disk: one JSON line a finding, so that a run that is killed goes on where it was.

The first line says what is asked of whom; the rest are answers, scores and, last, the end. A line
is there in full or not at all: what a crash left of the last one is cut off when the file is opened
again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from softprompt_serve.errors import BadRequest, Conflict
from softprompt_serve.evaluation.headings import FIRST, Heading
from softprompt_serve.evaluation.replies import Reply, ToolCall
from softprompt_serve.release.evidence import Answer, Run, Score

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

_MODE: Final = 0o600
"""Answers may quote users."""
_BATCH: Final = 32
_SYNC_SECONDS: Final = 1.0

Key = tuple[str, str]
"""Item and version."""


class Results:
    """The file of one run, open for appending by this process alone; use it in ``with``.

    Attributes:
        heading: of the run.
        replies: answers by item and version.
        scores: by item, version and evaluator.
        unscored: why an evaluator came to no verdict, by the same.
        ended_at: Unix time, or None while something is missing.
    """

    def __init__(self, path: Path, file: BinaryIO, heading: Heading) -> None:
        self.path = path
        self.heading = heading
        self.replies: dict[Key, Reply] = {}
        self.scores: dict[tuple[str, str, str], Score] = {}
        self.unscored: dict[tuple[str, str, str], str] = {}
        self.ended_at: float | None = None
        self._file = file
        self._waiting = 0
        self._synced = time.monotonic()

    @classmethod
    def open(cls, path: Path, heading: Heading) -> Self:
        """The run of ``heading`` in ``path``: a new one, or the one that is there, to go on.

        Raises:
            Conflict: ``run_differs`` (see :meth:`Heading.check_same`), ``run_in_use``.
            BadRequest: ``invalid_results``: it can't be written, or is no file of results.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, _MODE), "r+b")
        except OSError as error:
            msg = f"{path} can't be written: {error.strerror or error}."
            raise BadRequest(msg, code="invalid_results") from error
        try:
            return cls._opened(path, file, heading)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _opened(cls, path: Path, file: BinaryIO, heading: Heading) -> Self:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"{path} is being written by another process."
            raise Conflict(msg, code="run_in_use") from error
        lines = _whole_lines(path, file)
        if not lines:
            results = cls(path, file, heading)
            results._write(heading.to_json())
            results.sync()
            return results
        try:
            there = Heading.of_json(json.loads(lines[0]))
        except (ValueError, KeyError, TypeError) as error:
            _not_ours(path, error)
        there.check_same(heading, str(path))
        results = cls(path, file, there)
        for at, line in enumerate(lines[1:], 2):
            try:
                results._read(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                msg = f"{path}:{at} can't be read: {error}."
                raise BadRequest(msg, code="invalid_results") from error
        return results

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sync()
        self._file.close()

    def add_reply(self, reply: Reply) -> None:
        """Keep an answer."""
        self.replies[reply.answer.item, reply.answer.version] = reply
        calls = [asdict(call) for call in reply.tool_calls]
        self._write(
            {"type": "answer", **asdict(reply.answer), "text": reply.text, "tool_calls": calls}
        )

    def add_score(self, score: Score, note: str = "") -> None:
        """Keep a verdict, with a word of why."""
        self.scores[score.item, score.version, score.evaluator] = score
        self._write({"type": "score", **asdict(score), "note": note})

    def add_unscored(self, key: Key, evaluator: str, note: str) -> None:
        """Keep that an evaluator came to no verdict."""
        self.unscored[*key, evaluator] = note
        item, version = key
        self._write(
            {
                "type": "unscored",
                "item": item,
                "version": version,
                "evaluator": evaluator,
                "note": note,
            }
        )

    def end(self) -> None:
        """Everything is there; the time is kept, so that the run stays the same when read again."""
        if self.ended_at is None:
            self.ended_at = time.time()
            self._write({"type": "end", "at": self.ended_at})
        self.sync()

    def run(self) -> Run:
        """The evidence.

        Raises:
            Conflict: ``run_unfinished``.
        """
        if self.ended_at is None:
            msg = f"{self.path} holds a run that has not ended; resume it."
            raise Conflict(msg, code="run_unfinished")
        heading = self.heading
        return Run(
            id=heading.id,
            prompt=heading.prompt,
            dataset=heading.dataset,
            dataset_sha256=heading.dataset_sha256,
            digests=heading.digests,
            evaluators=heading.evaluators,
            base=heading.base,
            at=self.ended_at,
            sampling=heading.sampling,
            actor=heading.actor,
            scores=tuple(score for _, score in sorted(self.scores.items())),
            answers=tuple(reply.answer for _, reply in sorted(self.replies.items())),
        )

    def sync(self) -> None:
        """Return when everything is on the disk."""
        os.fsync(self._file.fileno())
        self._waiting, self._synced = 0, time.monotonic()

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._file.write(line.encode(errors="replace") + b"\n")
        # Flushed at once, a line outlives this process; synced in batches, also the machine.
        self._file.flush()
        self._waiting += 1
        if self._waiting >= _BATCH or time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def _read(self, record: dict[str, Any]) -> None:
        match record.pop("type"):
            case "answer":
                text, calls = record.pop("text"), record.pop("tool_calls")
                reply = Reply(Answer(**record), text, tuple(ToolCall(**call) for call in calls))
                self.replies[reply.answer.item, reply.answer.version] = reply
            case "score":
                record.pop("note")
                score = Score(**record)
                self.scores[score.item, score.version, score.evaluator] = score
            case "unscored":
                key = (record["item"], record["version"], record["evaluator"])
                self.unscored[key] = record["note"]
            case "end":
                self.ended_at = float(record["at"])
            case other:
                msg = f"unknown record {other!r}"
                raise ValueError(msg)


def _whole_lines(path: Path, file: BinaryIO) -> list[bytes]:
    """All lines that end; the rest of one that a crash cut short is removed from the file."""
    data = file.read()
    if data and not data.startswith(FIRST[: len(data)]):
        _not_ours(path)
    whole = data.rfind(b"\n") + 1
    file.truncate(whole)
    file.seek(whole)
    return data[:whole].split(b"\n")[:-1]


def _not_ours(path: Path, error: Exception | None = None) -> NoReturn:
    msg = f"{path} is there and holds no results of a run; give another file."
    raise BadRequest(msg, code="invalid_results") from error

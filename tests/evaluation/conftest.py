"""A run against the fake endpoint, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from evaluation.fake_endpoint import BASE, Fake, digest

from softprompt_serve.evaluation.asking import Endpoint
from softprompt_serve.evaluation.dataset import Item, parse_item
from softprompt_serve.evaluation.evaluators import Evaluator
from softprompt_serve.evaluation.headings import Heading
from softprompt_serve.evaluation.replies import Reply, Target, base_digest
from softprompt_serve.evaluation.results import Results
from softprompt_serve.evaluation.runner import Runner
from softprompt_serve.release.evidence import Answer, Base
from softprompt_serve.testing import serving


def target(version: str) -> Target:
    if version == "base":
        return Target("base", BASE, base_digest(), prompt=False)
    return Target(version, f"support@{version}", digest(version))


def item(text: str = "Where is it?", **parts: Any) -> Item:
    return parse_item({"messages": [{"role": "user", "content": text}], **parts})


def items(count: int, **parts: Any) -> list[Item]:
    return [item(f"question {n}", id=f"item-{n}", expected="yes", **parts) for n in range(count)]


def reply(text: str = "", **parts: Any) -> Reply:
    return Reply(Answer("item-0", "v1", "default"), text, **parts)


def heading(versions: Sequence[str], scoring: Sequence[Evaluator] = (), **parts: Any) -> Heading:
    given: dict[str, Any] = {
        "id": "0" * 32,
        "prompt": "support",
        "dataset": "tickets",
        "dataset_sha256": "a" * 64,
        "digests": {version: target(version).digest for version in versions},
        "evaluators": {evaluator.name: evaluator.version for evaluator in scoring},
        "sampling": {"temperature": 0.0, "seed": 0, "max_tokens": 8},
        "base": Base("acme/tiny"),
    }
    return Heading(**{**given, **parts})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass
class Evaluation:
    """Asks the fake endpoint and returns the results, as the command does."""

    fake: Fake
    url: str
    path: Path

    def __call__(
        self,
        asked: Sequence[Item],
        versions: Sequence[str] = ("v1", "v2"),
        evaluators: Sequence[Evaluator] = (),
        *,
        concurrency: int = 4,
        **endpoint: Any,
    ) -> Results:
        async def carried_out() -> None:
            async with Endpoint(self.url, **endpoint) as server:
                runner = Runner(evaluators, results, server)
                targets = [target(version) for version in versions]
                await runner.run(asked, targets, concurrency=concurrency)

        with Results.open(self.path, heading(versions, evaluators)) as results:
            asyncio.run(carried_out())
        return results


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def evaluate(fake: Fake, tmp_path: Path) -> Iterator[Evaluation]:
    with serving(fake.app()) as url:  # type: ignore[arg-type]
        yield Evaluation(fake, url, tmp_path / "results.jsonl")

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation.conftest import item, reply
from evaluation.fake_endpoint import BASE, Fake, refusal

from softprompt_serve.evaluation.asking import Aborted
from softprompt_serve.evaluation.evaluators import (
    Evaluator,
    NoVerdict,
    Options,
    Verdict,
    evaluator_of,
)
from softprompt_serve.evaluation.evaluators.judge import Bench
from softprompt_serve.evaluation.replies import ToolCall
from softprompt_serve.testing import serving


@pytest.fixture
def fake() -> Fake:
    return Fake(rule=lambda version, body: '{"reason": "clear", "score": 0.8}')


@pytest.fixture
def url(fake: Fake) -> Iterator[str]:
    with serving(fake.app()) as url:  # type: ignore[arg-type]
        yield f"{url}/v1"


def judge(url: str, folder: Path, *, rubric: str = "Be kind.", **parts: Any) -> Evaluator:
    path = folder / "tone.md"
    path.write_text(rubric)
    bench = Bench(url, parts.pop("model", BASE), "key")
    return evaluator_of("judge:tone", Options(bench, {"tone": path}, **parts))


def verdict(evaluator: Evaluator, **parts: Any) -> Verdict:
    return asyncio.run(evaluator.score(item(**parts), reply("Soon.")))


def test_a_judge_gives_a_score_and_a_reason(url: str, tmp_path: Path) -> None:
    assert verdict(judge(url, tmp_path)) == (0.8, True, "clear")
    assert not verdict(judge(url, tmp_path, threshold=0.9)).passed


def test_a_judge_reads_rubric_question_context_expectation_and_answer(
    url: str, fake: Fake, tmp_path: Path
) -> None:
    asked = item("Where is it?", context=["Parcels take a day."], expected="soon")
    answer = reply("Soon.", tool_calls=(ToolCall("find", "{}"),))
    asyncio.run(judge(url, tmp_path).score(asked, answer))
    (body,) = fake.bodies
    system, user = (message["content"] for message in body["messages"])
    assert "Be kind." in system
    assert user == (
        "<question>\nuser: Where is it?\n</question>\n\n"
        "<context>\nParcels take a day.\n</context>\n\n"
        "<expected>\nsoon\n</expected>\n\n"
        "<answer>\nSoon.\n[calls find({})]\n</answer>"
    )
    assert (body["temperature"], body["model"]) == (0.0, BASE)
    assert fake.headers[0]["authorization"] == "Bearer key"


def test_a_judge_does_not_learn_which_version_answered(
    url: str, fake: Fake, tmp_path: Path
) -> None:
    verdict(judge(url, tmp_path))
    assert "v1" not in json.dumps(fake.bodies[0]["messages"])


@pytest.mark.parametrize(
    "said",
    ['Sure: {"score": 1, "reason": "x"} Bye.', '```json\n{"reason": "x", "score": 1.0}\n```'],
)
def test_words_around_a_verdict_do_no_harm(url: str, fake: Fake, tmp_path: Path, said: str) -> None:
    fake.rule = lambda version, body: said
    assert verdict(judge(url, tmp_path)) == (1.0, True, "x")


@pytest.mark.parametrize(
    "said", ["Good.", '{"score": 2}', '{"score": true}', '{"score": "1"}', "{}", "{", "[1]"]
)
def test_a_verdict_that_cant_be_read_is_none(
    url: str, fake: Fake, tmp_path: Path, said: str
) -> None:
    fake.rule = lambda version, body: said
    with pytest.raises(NoVerdict, match="can't be read"):
        verdict(judge(url, tmp_path))


def test_an_endpoint_without_schemas_is_asked_without_from_then_on(
    url: str, fake: Fake, tmp_path: Path
) -> None:
    refused: list[Any] = []

    def rule(version: str, body: dict[str, Any]) -> Any:
        if "response_format" in body:
            refused.append(body)
            return refusal(400, "unsupported")
        return '{"reason": "", "score": 1}'

    fake.rule = rule
    evaluator = judge(url, tmp_path)
    assert verdict(evaluator).passed
    assert verdict(evaluator).passed
    assert len(refused) == 1


def test_a_busy_judge_is_asked_again(url: str, fake: Fake, tmp_path: Path) -> None:
    answers: list[Any] = ['{"score": 1}', refusal(429, retry_after="1")]
    fake.rule = lambda version, body: answers.pop()
    assert verdict(judge(url, tmp_path)).passed


def test_a_judge_that_refuses_stops_the_run(url: str, fake: Fake, tmp_path: Path) -> None:
    fake.rule = lambda version, body: refusal(401, "no_key")
    with pytest.raises(Aborted, match="status 401") as stopped:
        verdict(judge(url, tmp_path))
    assert stopped.value.code == "judge_unreachable"


def test_a_judge_that_is_not_there_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(Aborted, match="can't be reached"):
        verdict(judge("http://127.0.0.1:9/v1", tmp_path))


def test_a_version_changes_with_the_rubric_the_model_and_the_threshold(tmp_path: Path) -> None:
    made = [
        judge("http://one/v1", tmp_path),
        judge("http://one/v1", tmp_path, rubric="Be brief."),
        judge("http://one/v1", tmp_path, model="other"),
        judge("http://one/v1", tmp_path, threshold=0.7),
    ]
    assert len({evaluator.version for evaluator in made}) == 4
    assert judge("http://two/v1", tmp_path).version == made[0].version


def test_a_key_is_never_shown() -> None:
    assert "secret" not in repr(Bench("http://one/v1", "m", "secret"))

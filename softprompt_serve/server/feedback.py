"""The feedback routes: what users and evaluators say, tied to the version that answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path, Response

from softprompt_serve.errors import BadRequest, Conflict, NotFound
from softprompt_serve.registry.answers import Reaction, Verdict
from softprompt_serve.server.admin import Bearer, OurRoute, Serving, router
from softprompt_serve.server.feedback_shapes import (
    About,
    AnswerOut,
    EvaluationIn,
    FeedbackIn,
    ReactionOut,
    ResponseId,
    SaidOut,
    TakenOut,
    VerdictOut,
)
from softprompt_serve.telemetry.events import Evaluation, Feedback

if TYPE_CHECKING:
    from softprompt_serve.access.scopes import Grant
    from softprompt_serve.registry.answers import Answers
    from softprompt_serve.server.remembering import Remembering
    from softprompt_serve.server.service import Service
    from softprompt_serve.telemetry.events import Answered

feedback_router = APIRouter(
    prefix=router.prefix,
    route_class=OurRoute,
    tags=["feedback"],
    dependencies=router.dependencies,
    responses=router.responses,
)

_NEW, _KNOWN = 201, 200


@feedback_router.post("/feedback", status_code=_NEW, responses={_KNOWN: {"model": TakenOut}})
async def give_feedback(
    body: FeedbackIn, service: Serving, bearer: Bearer, response: Response
) -> TakenOut:
    """Tell what a user did about an answer; telling it again counts once."""
    answers, answer = await _find(service, body, bearer)
    reaction = Reaction(body.kind, body.value, body.note)
    said = await asyncio.to_thread(answers.react, answer.response_id, reaction)
    if said is None:
        raise _forgotten(body)
    if said.new:
        service.events.emit(
            Feedback(
                answer,
                body.kind,
                body.value,
                first=said.first,
                first_unhappy=said.first_unhappy,
            )
        )
    response.status_code = _NEW if said.new else _KNOWN
    return TakenOut(answer=AnswerOut.of(answer), recorded=said.new)


@feedback_router.post("/evaluations", status_code=_NEW, responses={_KNOWN: {"model": TakenOut}})
async def give_evaluation(
    body: EvaluationIn, service: Serving, bearer: Bearer, response: Response
) -> TakenOut:
    """Tell what an evaluator found about an answer; telling it again counts once."""
    answers, answer = await _find(service, body, bearer)
    verdict = Verdict(body.evaluation, body.passed, body.score, body.note)
    judged = await asyncio.to_thread(answers.judge, answer.response_id, verdict)
    if judged is None:
        raise _forgotten(body)
    new, counted = judged
    if counted.passed != verdict.passed:
        msg = (
            f"`{body.evaluation}` has found otherwise about this answer, and that is counted; "
            "a second verdict needs a name of its own."
        )
        raise Conflict(msg, code="evaluation_conflict", param="passed")
    if new:
        service.events.emit(Evaluation(answer, verdict.name, verdict.passed, verdict.score))
    response.status_code = _NEW if new else _KNOWN
    return TakenOut(answer=AnswerOut.of(answer), recorded=new)


@feedback_router.get("/responses/{response_id}")
async def get_response(
    response_id: Annotated[ResponseId, Path()], service: Serving, bearer: Bearer
) -> SaidOut:
    """Which version gave an answer, and all that was said about it."""
    answers, answer = await _find(service, About(response_id=response_id), bearer)
    reactions, verdicts = await asyncio.to_thread(answers.said, response_id)
    return SaidOut(
        answer=AnswerOut.of(answer),
        feedback=[ReactionOut.of(reaction) for reaction in reactions],
        evaluations=[VerdictOut.of(verdict) for verdict in verdicts],
    )


def _remembering(service: Service) -> Remembering:
    if service.remembering is None:
        msg = "Answers are not remembered here: SOFTPROMPT_FEEDBACK_RESPONSES is 0."
        raise Conflict(msg, code="feedback_off")
    return service.remembering


async def _find(service: Service, about: About, bearer: Grant) -> tuple[Answers, Answered]:
    """The answer that is meant; one of a prompt that the token is not for is as if forgotten.

    Raises:
        NotFound: ``response_not_found``.
        BadRequest: ``trace_ambiguous``: the trace has several answers.
    """
    answers = _remembering(service).answers
    found = await _look(_remembering(service), about)
    found = [answer for answer in found if bearer.covers(answer.prompt)]
    if not found:
        raise _forgotten(about)
    if len(found) > 1:
        msg = "This trace has several answers; name the one that is meant by its `response_id`."
        raise BadRequest(msg, code="trace_ambiguous", param="trace_id")
    return answers, found[0]


async def _look(remembering: Remembering, about: About) -> list[Answered]:
    """Look a second time after a moment: another process may be about to write the answer."""
    for wait in (0.0, remembering.every_seconds * 2):
        await asyncio.sleep(wait)
        await remembering.flush()
        if found := await asyncio.to_thread(_read, remembering.answers, about):
            return found
    return []


def _read(answers: Answers, about: About) -> list[Answered]:
    if about.response_id is None:
        return answers.of_trace(about.trace_id or "")
    found = answers.find(about.response_id)
    return [] if found is None else [found]


def _forgotten(about: About) -> NotFound:
    param = "response_id" if about.response_id is not None else "trace_id"
    msg = (
        f"No answer with this {param} is remembered; expected that of a recent answer by one of "
        "the prompts."
    )
    return NotFound(msg, code="response_not_found", param=param)

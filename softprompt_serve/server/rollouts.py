"""The rollout routes of the admin API: thin, over :mod:`softprompt_serve.server.rolling`."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Body, Depends, Header, Query, Response

from softprompt_serve.errors import BadRequest, Invalid, NotFound, Unavailable
from softprompt_serve.rollout import spec as documents
from softprompt_serve.router.ask import Ask
from softprompt_serve.router.choose import choose
from softprompt_serve.router.explain import trace
from softprompt_serve.server import rolling, schemas
from softprompt_serve.server import rollout_shapes as shapes
from softprompt_serve.server.admin import Actor, OurRoute, Serving, router
from softprompt_serve.server.changing import Change, tag, tag_asked

if TYPE_CHECKING:
    from fastapi.exceptions import RequestValidationError

    from softprompt_serve.errors import SoftpromptError
    from softprompt_serve.registry.moves import Move, Moves
    from softprompt_serve.registry.snapshot import Rollout
    from softprompt_serve.router.ask import Labels
    from softprompt_serve.server.promotion import Force

_GENERATION: Final = r"[0-9]{1,18}"
_GENERATION_EXPECTED: Final = 'a generation such as "3"'
_SAID_TWICE: Final = "Value error, "


class RolloutRoute(OurRoute):
    """Like the others, but a document of the wrong shape is 422, as one that means nothing is."""

    def misshapen(self, error: RequestValidationError) -> SoftpromptError:
        """Name the first field that is wrong."""
        first = error.errors()[0]
        if first["loc"][0] != "body":
            return super().misshapen(error)
        if first["type"] == "json_invalid":
            return BadRequest("The body is no JSON.", code="invalid_body")
        problems = "; ".join(
            f"{_path(e['loc']) or 'body'}: {e['msg'].removeprefix(_SAID_TWICE)}"
            for e in error.errors()
        )
        msg = f"This is no rollout: {problems}."
        return Invalid(msg, code="invalid_rollout", param=_path(first["loc"]))


def _path(location: tuple[int | str, ...]) -> str | None:
    """``("body", "arms", 0, "weight")`` → ``arms.0.weight``."""
    return ".".join(str(part) for part in location[1:] if part != "[key]") or None


class RolloutChange(Change[int]):
    """A call that changes a prompt's rollout; it is tied to the rollout's generation."""

    __slots__ = ()

    @property
    def moves(self) -> Moves:
        """What can be changed."""
        return self.service.rollouts.moves

    async def load_and_make(self, move: Move, force: Force | None = None) -> shapes.RolloutOut:
        """Make a change that may send traffic to a version that is not resident here yet."""
        made = await rolling.change(
            self.service,
            self.prompt,
            move,
            if_match=self.if_match,
            actor=self.actor,
            force=force,
        )
        return await self.answer(made)

    async def make(self, move: Move) -> shapes.RolloutOut:
        """Make a change that does not."""
        made = await rolling.make(
            self.service, self.prompt, move, if_match=self.if_match, actor=self.actor
        )
        return await self.answer(made)

    async def answer(self, rollout: Rollout | None) -> shapes.RolloutOut:
        """The state that was made, and what is seen of it."""
        seen = await rolling.look(self.service, self.prompt)
        return _tagged(shapes.RolloutOut.of(self.prompt, rollout, seen), self.response)


def _change(
    name: schemas.Name,
    service: Serving,
    response: Response,
    if_match: Annotated[
        str | None,
        Header(description='Only change this generation, as in `"3"`; `*` is any.'),
    ] = None,
    actor: Actor = None,
) -> RolloutChange:
    asked = tag_asked(if_match, _GENERATION, _GENERATION_EXPECTED)
    generation = None if asked is None else int(asked)
    return RolloutChange(service, name, response, generation, actor)


def _tagged(out: shapes.RolloutOut, response: Response) -> shapes.RolloutOut:
    tag(response, out.generation)
    return out


Changing = Annotated[RolloutChange, Depends(_change)]
Reason = Annotated[shapes.ReasonIn | None, Body()]
Weights = Annotated[
    dict[documents.Name, documents.Weight],
    Body(min_length=1, max_length=documents.MAX_ARMS, examples=[{"v2": 90, "v3": 10}]),
]

rollout_router = APIRouter(
    prefix=f"{router.prefix}/prompts/{{name}}/rollout",
    route_class=RolloutRoute,
    tags=["rollouts"],
    dependencies=router.dependencies,
    responses=router.responses,
)


def _why(body: shapes.ReasonIn | None) -> str | None:
    return None if body is None else body.reason


@rollout_router.get("")
async def get_rollout(
    name: schemas.Name, service: Serving, response: Response
) -> shapes.RolloutOut:
    """How a prompt's traffic is split, and which replicas do so; also where it has no rollout."""
    seen = await rolling.look(service, name)
    return _tagged(shapes.RolloutOut.of(name, seen.view.rollout, seen), response)


@rollout_router.put("")
async def put_rollout(change: Changing, spec: documents.RolloutSpec) -> shapes.RolloutOut:
    """Replace the whole document; the same one again changes nothing."""
    return await change.load_and_make(change.moves.put(spec))


@rollout_router.put("/weights")
async def put_weights(change: Changing, weights: Weights) -> shapes.RolloutOut:
    """Replace the arms alone, by version or alias; rules and shadow stay."""
    return await change.load_and_make(change.moves.put_weights(weights))


@rollout_router.delete("")
async def remove_rollout(change: Changing) -> shapes.RolloutOut:
    """Have no rollout any more: all traffic is `production`'s."""
    removed = await rolling.remove(
        change.service, change.prompt, if_match=change.if_match, actor=change.actor
    )
    return await change.answer(removed)


@rollout_router.post("/promote")
async def promote(change: Changing, body: shapes.PromoteIn | None = None) -> shapes.RolloutOut:
    """Give a version, or the one candidate, all of the split and the alias `production`."""
    asked = body or shapes.PromoteIn()
    move = change.moves.promote(asked.version, asked.reason)
    return await change.load_and_make(move, asked.forced)


@rollout_router.post("/rollback")
async def rollback(change: Changing, body: Reason = None) -> shapes.RolloutOut:
    """Return to the last state in which one version had all of the split."""
    return await change.load_and_make(change.moves.rollback(_why(body)))


@rollout_router.post("/pause")
async def pause(change: Changing, body: Reason = None) -> shapes.RolloutOut:
    """Hold the steps where they are."""
    return await change.make(change.moves.pause(_why(body)))


@rollout_router.post("/resume")
async def resume(change: Changing, body: Reason = None) -> shapes.RolloutOut:
    """Let the steps go on; the present one's time begins anew."""
    return await change.make(change.moves.resume(_why(body)))


@rollout_router.post("/explain")
async def explain(
    name: schemas.Name, service: Serving, body: shapes.ExplainIn | None = None
) -> shapes.ExplainOut:
    """What this server would answer a request with, or refuse it with, and why."""
    ask = _ask(body or shapes.ExplainIn(), service.labels)
    snapshot, resident = service.traffic, service.residency.is_resident
    absent = service.settings.arm_not_resident
    steps = trace(snapshot, name, ask, resident=resident, absent=absent).steps
    try:
        decision = choose(snapshot, name, ask, resident=resident, absent=absent)
    except (NotFound, Unavailable) as error:
        if (prompt := snapshot.prompt(name)) is None:
            raise
        return shapes.ExplainOut.refused(error, ask, steps, generation=prompt.generation)
    return shapes.ExplainOut.of(decision, steps, resident=resident(decision.version))


def _ask(sample: shapes.ExplainIn, labels: Labels) -> Ask:
    """As the router would see a request; without a sticky key each is on its own."""
    tokens = sample.visible_tokens
    headers = {name.lower(): value for name, value in sample.headers.items()}
    return Ask(
        key=sample.sticky_key or uuid.uuid4().hex,
        pinned=sample.version,
        cohort=labels.cohort(sample.cohort, tools=sample.tools, visible_tokens=tokens),
        route=labels.route(sample.route),
        headers={name: headers[name] for name in labels.headers & headers.keys()},
        tools=sample.tools,
        visible_tokens=tokens,
        long_context=tokens is not None and tokens >= labels.long_context_tokens,
    )


@rollout_router.get("/history")
async def history(
    name: schemas.Name, service: Serving, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> shapes.HistoryOut:
    """States that the prompt's traffic was in, newest first."""
    found = await asyncio.to_thread(service.rollouts.history, name, limit)
    if not found:
        service.find_prompt(name)
    return shapes.HistoryOut(data=[shapes.StateOut.model_validate(dict(entry)) for entry in found])

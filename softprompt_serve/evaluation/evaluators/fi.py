"""``fi:NAME``: FutureAGI's evaluators, of its package ``ai-evaluation`` (an optional extra).

``fi:Faithfulness``, ``fi:Groundedness`` and ``fi:TaskCompletion`` are its local metrics: plain
heuristics over words, with no network and no model. ``fi:NAME@MODEL`` is a template of its cloud,
such as ``fi:Groundedness@turing_flash``, and needs a key.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import warnings
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.evaluators.verdict import Named, NoVerdict, Verdict

if TYPE_CHECKING:
    from softprompt_serve.evaluation.dataset import Item
    from softprompt_serve.evaluation.replies import Reply

_KEYS: Final = ("FI_API_KEY", "FI_SECRET_KEY")
_CLOUD_ATTEMPTS: Final = 3


class _Local(NamedTuple):
    """A local metric: its name in the package, what it needs, and from where on it is passed.

    0.5 is the package's own bound. Its task completion gives 0.4 for a wrong result and 0.9 for the
    right one; 0.75 is where the result counts as matched by its own rule, seven tenths of the words.
    """

    metric: str
    needs: tuple[str, ...]
    threshold: float


_LOCAL: Final = {
    "Faithfulness": _Local("rag_faithfulness", ("context",), 0.5),
    "Groundedness": _Local("groundedness", ("context",), 0.5),
    "TaskCompletion": _Local("task_completion", ("expected",), 0.75),
}


@dataclass(frozen=True, slots=True)
class Fi(Named):
    """One evaluator of the package, through its one entry point ``fi.evals.evaluate``."""

    metric: str = field(kw_only=True)
    threshold: float = field(kw_only=True)
    model: str | None = field(kw_only=True)
    evaluate: Any = field(kw_only=True)

    @classmethod
    def of(cls, name: str, which: str) -> Fi:
        """The evaluator for what stands behind ``fi:``.

        Raises:
            BadRequest: ``invalid_evaluator``: not installed, not known; ``fi_key_missing``.
        """
        title, _, model = which.partition("@")
        evals = _imported()
        made = f"1+ai-evaluation-{version('ai-evaluation')}"
        if model:
            metric = _template(title)
            return cls(
                name,
                f"{made}+{model}",
                metric=metric,
                threshold=0.5,
                model=model,
                evaluate=evals.evaluate,
            )
        if title not in _LOCAL:
            msg = f"fi:{title} is no local metric; there are {', '.join(_LOCAL)}."
            raise BadRequest(msg, code="invalid_evaluator")
        _without_model()
        local = _LOCAL[title]
        return cls(
            name,
            f"{made}+words,passed>={local.threshold:g}",
            local.needs,
            metric=local.metric,
            threshold=local.threshold,
            model=None,
            evaluate=evals.evaluate,
        )

    async def score(self, item: Item, reply: Reply) -> Verdict:
        """What the package finds.

        Raises:
            NoVerdict: it finds nothing, or its cloud answered with an error.
        """
        if self.model is None:
            result = self.evaluate(self.metric, engine="local", **_local_inputs(item, reply))
        else:
            result = await self._from_cloud(item, reply)
        if result.status != "completed" or result.score is None:
            raise NoVerdict(str(result.error or "no score"))
        value = min(1.0, max(0.0, float(result.score)))
        return Verdict(value, value >= self.threshold, str(result.reason or ""))

    async def _from_cloud(self, item: Item, reply: Reply) -> Any:
        inputs = {"output": reply.text, "input": item.question}
        if item.context:
            inputs["context"] = "\n\n".join(item.context)
        if isinstance(item.expected, str):
            inputs["expected"] = item.expected
        for attempt in range(_CLOUD_ATTEMPTS):
            result = await asyncio.to_thread(
                self.evaluate, self.metric, engine="turing", model=self.model, **inputs
            )
            if result.status == "completed":
                break
            await asyncio.sleep(2.0**attempt)
        return result


def _local_inputs(item: Item, reply: Reply) -> dict[str, Any]:
    """For the RAG metrics, and for task completion an agent's run of one last step."""
    expected = item.expected if isinstance(item.expected, str) else None
    if isinstance(item.expected, list) and item.expected and isinstance(item.expected[0], str):
        expected = item.expected[0]
    criteria = item.metadata.get("success_criteria")
    return {
        "query": item.question,
        "response": reply.text,
        "contexts": item.context,
        "task": {"description": item.question, "success_criteria": criteria},
        "trajectory": [{"step_number": 1, "observation": reply.text, "is_final": True}],
        "final_result": reply.text,
        "expected_result": expected if expected is not None else item.expected,
    }


def _imported() -> Any:
    # On import litellm, which the package brings, would fetch a price list.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of its own dependencies
            evals = importlib.import_module("fi.evals")
            importlib.import_module("fi.evals.local.registry").get_registry()
        version("ai-evaluation")
    except (ImportError, PackageNotFoundError) as error:
        msg = (
            "fi:… needs the package ai-evaluation: pip install 'softprompt-serve[fi]', in an "
            f"environment without vLLM, with whose openai it can't live together ({error})."
        )
        raise BadRequest(msg, code="invalid_evaluator") from error
    return evals


def _without_model() -> None:
    """Keep the package to its heuristic over words, whatever is installed beside it.

    Where it finds Transformers it would fetch a model from a hub at the first claim and, failing
    that, use the heuristic: the same name with other verdicts from one machine to the next. It has
    no switch for that; what it remembers of a model that can't be had is set instead. Checked on
    ai-evaluation 1.1.0; goes away when a setting names the model.
    """
    nli: Any = importlib.import_module("fi.evals.metrics.hallucination.nli")
    for name in ("_nli_pipeline", "_heuristic_warning_issued"):
        if not hasattr(nli, name):
            _moved(name)
    nli._nli_pipeline = False  # noqa: SLF001 - see above
    nli._heuristic_warning_issued = True  # noqa: SLF001 - the heuristic is what was asked for


def _moved(name: str) -> NoReturn:
    msg = (
        f"ai-evaluation {version('ai-evaluation')} has no {name} any more, by which its local "
        "metrics are kept from loading a model; 1.1.0 has."
    )
    raise BadRequest(msg, code="invalid_evaluator")


def _template(title: str) -> str:
    templates = importlib.import_module("fi.evals.templates")
    known = getattr(templates, title, None)
    metric = getattr(known, "eval_name", None)
    if not isinstance(metric, str):
        hint = "; the nearest is ContextAdherence" if title == "Faithfulness" else ""
        msg = f"ai-evaluation has no template {title!r} for its cloud{hint}."
        raise BadRequest(msg, code="invalid_evaluator")
    missing = [name for name in _KEYS if not os.environ.get(name)]
    if missing:
        msg = f"fi:{title} in FutureAGI's cloud needs its own key: set {' and '.join(missing)}."
        raise BadRequest(msg, code="fi_key_missing")
    return metric

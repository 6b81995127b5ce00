"""Evaluators of how much two texts share: ``f1`` and ``rouge_l``."""

from __future__ import annotations

import asyncio
import importlib
import re
import string
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.evaluators.matching import texts_of
from softprompt_serve.evaluation.evaluators.verdict import Named, NoVerdict, Verdict

if TYPE_CHECKING:
    from softprompt_serve.evaluation.dataset import Item
    from softprompt_serve.evaluation.replies import Reply

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class TokenF1(Named):
    """F1 over words, as SQuAD's own evaluation has it; the best of the expected texts counts.

    P. Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", EMNLP 2016:
    lower case, without punctuation and the articles a, an, the; words counted with repetitions.
    """

    threshold: float = 0.5

    async def score(self, item: Item, reply: Reply) -> Verdict:
        """The F1; passed from the threshold on."""
        value = max(token_f1(reply.text, text) for text in _texts(item))
        return Verdict(value, value >= self.threshold)


@dataclass(frozen=True, slots=True)
class RougeL(Named):
    """ROUGE-L F-measure by the library ``rouge-score``, with stemming; the best text counts.

    C.-Y. Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
    """

    threshold: float = 0.5
    scorer: Any = None

    @classmethod
    def of(cls, name: str, threshold: float) -> RougeL:
        """An evaluator.

        Raises:
            BadRequest: ``invalid_evaluator``: ``rouge-score`` is not installed.
        """
        try:
            rouge = importlib.import_module("rouge_score.rouge_scorer")
        except ImportError as error:
            msg = "rouge_l needs the package rouge-score: pip install 'softprompt-serve[eval]'."
            raise BadRequest(msg, code="invalid_evaluator") from error
        scorer = rouge.RougeScorer(["rougeL"], use_stemmer=True)
        made = f"1+rouge-score-{version('rouge-score')}"
        return cls(name, _with(made, threshold), ("expected",), threshold, scorer)

    async def score(self, item: Item, reply: Reply) -> Verdict:
        """The F-measure; passed from the threshold on."""
        texts = _texts(item)
        value = await asyncio.to_thread(
            lambda: max(self.scorer.score(t, reply.text)["rougeL"].fmeasure for t in texts)
        )
        return Verdict(value, value >= self.threshold)


def f1_of(name: str, threshold: float) -> TokenF1:
    """An evaluator of token F1."""
    return TokenF1(name, _with("1", threshold), ("expected",), threshold)


def token_f1(answer: str, expected: str) -> float:
    """The F1 of two texts' words; two texts without any word are equal."""
    given, wanted = _words(answer), _words(expected)
    if not given or not wanted:
        return float(given == wanted)
    shared = sum((Counter(given) & Counter(wanted)).values())
    return 2.0 * shared / (len(given) + len(wanted))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _texts(item: Item) -> list[str]:
    texts = texts_of(item.expected)
    if texts is None:
        msg = "what is expected is no text"
        raise NoVerdict(msg)
    return texts


def _with(made: str, threshold: float) -> str:
    return f"{made},passed>={threshold:g}"

"""What an answer must be: the same engine's, on native embeddings, without anything of ours.

The version's rows and the visible tokens' embeddings are sent as vLLM's own ``prompt_embeds``. An
answer agrees if, position by position, the most likely tokens have the same log-probabilities: that
tells apart a wrong prompt, which moves them by whole units, from the rounding of another batch, which
moves the choice between two tokens only where they are as good as equal.
"""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import safetensors
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fire.caches import keys_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import httpx

TOP: Final = 5
TOLERANCE: Final = 0.02
"""Nats. Rounding in float32 stays under 0.001 here, and another prompt's are off by more than 0.1."""

AT_ONCE: Final = 16
"""Tokens that are asked for, at least: what a longer answer begins with is the shorter one."""

_REMEMBERED: Final = 20_000

Verdict = Literal["equal", "tie", "mismatch"]


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token, and the log-probabilities of the most likely ones there."""

    token: str
    top: dict[str, float]


@dataclass(frozen=True, slots=True)
class Input:
    """What is asked: the same input has the same answer, as far as it goes.

    Attributes:
        digest: of the version that answers; empty for the base model.
        ids: visible tokens, with what a hard version adds.
        sampling: as it is sent, without how many tokens.
    """

    digest: str
    ids: tuple[int, ...]
    sampling: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was answered when so many tokens were asked for; fewer if it had said all."""

    asked: int
    steps: list[Step]


class Tokens:
    """The model's tokenizer and its input embeddings."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.table = _embeddings(folder)
        self._folder = folder
        self._model: Any = None

    def chat(self, text: str, system: str | None) -> list[int]:
        """As the chat template has it."""
        given = [] if system is None else [{"role": "system", "content": system}]
        messages = [*given, {"role": "user", "content": text}]
        ids: list[int] = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        return ids

    def plain(self, text: str, system: str | None) -> list[int]:
        """As a completion has it."""
        ids: list[int] = self.tokenizer(text if system is None else f"{system}\n\n{text}")[
            "input_ids"
        ]
        return ids

    def rows(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """A plausible soft prompt ``[count, hidden_size]``: noisy embeddings of random tokens."""
        ids = torch.randint(100, len(self.table) - 100, (count,), generator=generator)
        noise = torch.randn(count, self.table.shape[1], generator=generator)
        return self.table[ids] + 0.1 * self.table.std() * noise

    def keys(self, rows: torch.Tensor) -> torch.Tensor:
        """The model's own keys and values for rows, ``[layers, 2, n, kv_heads, head_dim]``."""
        if self._model is None:
            self._model = AutoModelForCausalLM.from_pretrained(self._folder, dtype=torch.float32)
            self._model.eval()
        with torch.inference_mode():
            cache = self._model(inputs_embeds=rows[None]).past_key_values
        return keys_in(cache)


class Oracle:
    """Native answers, each asked for once."""

    def __init__(self, client: httpx.AsyncClient, base: str, tokens: Tokens) -> None:
        self._client = client
        self._base = base
        self._tokens = tokens
        self._known: OrderedDict[Input, _Answer] = OrderedDict()
        self.asked = 0

    async def answer(self, what: Input, tokens: int, rows: torch.Tensor | None) -> list[Step]:
        """The answer to an input, in so many tokens at most.

        ``rows`` are those of its digest, ``[n, hidden_size]``.
        """
        known = self._known.get(what)
        if known is None or known.asked < tokens:
            asked = max(tokens, AT_ONCE)
            known = self._known[what] = _Answer(asked, await self._ask(what, asked, rows))
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return known.steps[:tokens]

    async def _ask(self, what: Input, tokens: int, rows: torch.Tensor | None) -> list[Step]:
        visible = self._tokens.table[list(what.ids)]
        embeddings = visible if rows is None else torch.cat([rows, visible])
        file = io.BytesIO()
        torch.save(embeddings, file)
        body = {
            "model": self._base,
            "prompt_embeds": base64.b64encode(file.getvalue()).decode(),
            "logprobs": TOP,
            "return_tokens_as_token_ids": True,
            "max_tokens": tokens,
            **dict(what.sampling),
        }
        answer = await self._client.post("/v1/completions", json=body)
        answer.raise_for_status()
        self.asked += 1
        return of_completion(answer.json()["choices"][0]["logprobs"])


def of_completion(logprobs: dict[str, Any]) -> list[Step]:
    """Steps of a completion's ``logprobs``."""
    pairs = zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)
    return [Step(token, dict(top)) for token, top in pairs]


def of_chat(logprobs: dict[str, Any]) -> list[Step]:
    """Steps of a chat completion's ``logprobs``."""
    return [
        Step(one["token"], {top["token"]: top["logprob"] for top in one["top_logprobs"]})
        for one in logprobs["content"]
    ]


def compare(given: Sequence[Step], wanted: Sequence[Step]) -> Verdict:
    """Whether an answer is that of the same input.

    Up to the first token that differs both saw the same text, so their distributions must agree.
    After a tie the texts part, and nothing is left to compare.
    """
    for ours, theirs in zip(given, wanted, strict=False):
        if not _agree(ours.top, theirs.top):
            return "mismatch"
        if ours.token != theirs.token:
            return "tie"
    return "equal" if len(given) == len(wanted) else "mismatch"


def _agree(ours: dict[str, float], theirs: dict[str, float]) -> bool:
    """Whether two lists of the most likely tokens are those of one distribution."""
    likeliest, other = max(ours.values()), max(theirs.values())
    if abs(likeliest - other) > TOLERANCE:
        return False
    shared = ours.keys() & theirs.keys()
    if any(abs(ours[token] - theirs[token]) > TOLERANCE for token in shared):
        return False
    # A token that only one list has must be as good as its last place.
    floor = max(min(sorted(found.values())[-TOP:]) for found in (ours, theirs))
    missing = [found[t] for found in (ours, theirs) for t in found.keys() - shared]
    return all(value <= floor + TOLERANCE for value in missing)


def _embeddings(folder: Path) -> torch.Tensor:
    """The input embeddings ``[vocabulary, hidden_size]`` in float32, read without the model."""
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if name.endswith("embed_tokens.weight"):
                    table: torch.Tensor = file.get_tensor(name)
                    return table.float()
    msg = f"{folder} has no embeddings in safetensors."
    raise FileNotFoundError(msg)

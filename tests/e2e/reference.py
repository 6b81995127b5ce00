"""What a served answer must equal: Transformers on input embeddings, and PEFT itself."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from fire.caches import keys_in
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

TEMPLATE = {"add_generation_prompt": True, "return_dict": True}


@dataclass
class Reference:
    """The demo model in Transformers, float32, greedy."""

    folder: Path
    _known: dict[Any, list[int]] = field(default_factory=dict, repr=False)

    @cached_property
    def model(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    @cached_property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.folder)

    def chat_ids(self, content: str, system: str | None = None) -> list[int]:
        messages = [{"role": "user", "content": content}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return self.tokenizer.apply_chat_template(messages, **TEMPLATE)["input_ids"]

    def text_ids(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"]

    def embeddings(self, ids: list[int], rows: torch.Tensor | None = None) -> torch.Tensor:
        """``[n + len(ids), hidden_size]``: the virtual rows first, as PEFT concatenates."""
        visible = self.model.get_input_embeddings()(torch.tensor(ids)).detach()
        return visible if rows is None else torch.cat([rows.float(), visible])

    def greedy(self, ids: list[int], rows: torch.Tensor | None = None, *, tokens: int) -> list[int]:
        """The answer's token ids, without the end-of-turn token; computed once for each input."""
        key = (tuple(ids), None if rows is None else rows.numpy().tobytes(), tokens)
        if key not in self._known:
            self._known[key] = self._greedy(ids, rows, tokens)
        return self._known[key]

    def _greedy(self, ids: list[int], rows: torch.Tensor | None, tokens: int) -> list[int]:
        embeddings = self.embeddings(ids, rows)[None]
        with torch.inference_mode():
            out = self.model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
                max_new_tokens=tokens,
                do_sample=False,
            )
        return [token for token in out[0].tolist() if token != self.model.config.eos_token_id]

    def greedy_after(
        self, keys: torch.Tensor, ids: list[int], *, tokens: int, ends: bool = True
    ) -> list[int]:
        """As :meth:`greedy`, after keys and values ``[layers, 2, n, kv_heads, head_dim]``."""
        cache = _cache(keys)
        found: list[int] = []
        given = torch.tensor([ids])
        with torch.inference_mode():
            while len(found) < tokens:
                logits = self.model(input_ids=given, past_key_values=cache).logits[0, -1]
                token = int(logits.argmax())
                if ends and token == self.model.config.eos_token_id:
                    break
                found.append(token)
                given = torch.tensor([[token]])
        return found

    def greedy_past_the_end(
        self, ids: list[int], rows: torch.Tensor | None = None, *, tokens: int
    ) -> list[int]:
        """As :meth:`greedy`, where no token ends an answer."""
        embeddings = self.embeddings(ids, rows)[None]
        with torch.inference_mode():
            out = self.model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
                min_new_tokens=1,
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=-1,
            )
        found: list[int] = out[0].tolist()
        return found

    def likelihood(
        self,
        ids: list[int],
        told: list[int],
        *,
        rows: torch.Tensor | None = None,
        keys: torch.Tensor | None = None,
    ) -> float:
        """Mean log-probability (nats) of an answer's tokens after rows, or keys and values."""
        given = self.embeddings(ids + told, rows)[None]
        cache = None if keys is None else _cache(keys)
        with torch.inference_mode():
            logits = self.model(inputs_embeds=given, past_key_values=cache).logits[0]
        scores = logits[-len(told) - 1 : -1].log_softmax(-1)
        return sum(row[token].item() for row, token in zip(scores, told, strict=True)) / len(told)

    def cycled(self, text: str, tokens: int) -> list[int]:
        """A text's token ids, over and over until there are so many."""
        return list(itertools.islice(itertools.cycle(self.text_ids(text)), tokens))

    def own_keys(self, ids: list[int]) -> torch.Tensor:
        """The model's own keys and values after ``ids``, as a prefix: plausible ones."""
        with torch.inference_mode():
            cache = self.model(input_ids=torch.tensor([ids])).past_key_values
        return keys_in(cache)

    def answer(self, ids: list[int], rows: torch.Tensor | None = None, *, tokens: int) -> str:
        return self.tokenizer.decode(
            self.greedy(ids, rows, tokens=tokens), skip_special_tokens=True
        )

    def first_logprobs(self, ids: list[int], rows: torch.Tensor | None = None) -> torch.Tensor:
        """Log-probabilities ``[vocabulary]`` of the first generated token."""
        with torch.inference_mode():
            logits = self.model(inputs_embeds=self.embeddings(ids, rows)[None]).logits[0, -1]
        return torch.log_softmax(logits, dim=-1)

    def random_rows(self, n: int, seed: int) -> torch.Tensor:
        """A plausible soft prompt ``[n, hidden_size]``: noisy embeddings of random words."""
        generator = torch.Generator().manual_seed(seed)
        table = self.model.get_input_embeddings().weight.detach()
        ids = torch.randint(100, len(table) - 100, (n,), generator=generator)
        noise = torch.randn(n, table.shape[1], generator=generator)
        return table[ids] + 0.02 * noise

    def distinct_rows(
        self, n: int, ids: list[int], names: tuple[str, ...], *, tokens: int
    ) -> dict[str, torch.Tensor]:
        """Rows for each name that answer ``ids`` differently, so that a mix-up would show."""
        found: dict[str, torch.Tensor] = {}
        answers: set[str] = set()
        for seed in range(1, 100):
            rows = self.random_rows(n, seed=seed)
            answer = self.answer(ids, rows, tokens=tokens)
            if answer not in answers:
                answers.add(answer)
                found[names[len(found)]] = rows
            if len(found) == len(names):
                return found
        msg = f"found only {len(found)} of {len(names)} different answers"
        raise AssertionError(msg)


def _cache(keys: torch.Tensor) -> DynamicCache:
    """Transformers' cache of keys and values ``[layers, 2, n, kv_heads, head_dim]``."""
    cache = DynamicCache()
    for layer, (key, value) in enumerate(keys.float()):
        cache.update(key.transpose(0, 1)[None], value.transpose(0, 1)[None], layer)
    return cache


def safetensors_bytes(rows: torch.Tensor) -> bytes:
    return safetensors.torch.save({"prompt_embeddings": rows.contiguous()})

"""What does a soft prompt's job without our server: a LoRA in vLLM, PEFT in Transformers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import torch

from cost.figures import Answer

if TYPE_CHECKING:
    from pathlib import Path

LORA_RANK: Final = 8


def make_lora(model: Path, folder: Path) -> Path:
    """A LoRA adapter of random weights on the attention's projections, as PEFT saves it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from softprompt_serve.demo.adapters import ATTENTION

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    wrapped = get_peft_model(
        base,
        LoraConfig(
            r=LORA_RANK,
            target_modules=list(ATTENTION),
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        ),
    )
    wrapped.save_pretrained(str(folder))
    return folder


class Moments:
    """A stopping criterion that never stops, and knows when each token came."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def __call__(self, ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self.found.append(time.perf_counter())
        return torch.zeros(ids.shape[0], dtype=torch.bool)


class Transformers:
    """PEFT prompt tuning with Transformers' ``generate``, in this process.

    Callers are one batch of equal lengths, which is the best that ``generate`` can get.
    """

    def __init__(self, model: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._tuned: dict[int, Any] = {}

    def answers(self, rows: int, prompts: list[list[int]], tokens: int) -> tuple[Answer, ...]:
        """One batch: ``tokens`` new ones for every prompt, after ``rows`` virtual ones."""
        from transformers import StoppingCriteriaList

        if rows not in self._tuned:
            self._tuned[rows] = self._tune(rows)
        ids, moments = torch.tensor(prompts), Moments()
        begun = time.perf_counter()
        with torch.inference_mode():
            self._tuned[rows].generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([moments]),
            )
        return (Answer.at(begun, moments.found),) * len(prompts)

    def _tune(self, rows: int) -> Any:
        from peft import PromptTuningConfig, get_peft_model

        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=rows)
        return get_peft_model(self._base, config).eval()

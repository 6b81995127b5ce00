"""What else does a soft prompt's job, for the side-by-side: a LoRA in vLLM, PEFT in Transformers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from pathlib import Path

LORA_RANK: Final = 8


def make_lora(model: Path, folder: Path) -> Path:
    """A LoRA adapter of random weights on the attention's projections, as PEFT saves it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    wrapped = get_peft_model(
        base,
        LoraConfig(
            r=LORA_RANK,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        ),
    )
    wrapped.save_pretrained(str(folder))
    return folder


class Transformers:
    """PEFT prompt tuning with Transformers' ``generate``, in this process.

    Many at once are one batch of equal lengths, which is the best that ``generate`` can get.
    """

    def __init__(self, model: Path, rows: int) -> None:
        from peft import PromptTuningConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=rows)
        self._model: Any = get_peft_model(base, config).eval()

    def seconds(self, prompts: list[list[int]], tokens: int) -> float:
        """How long ``tokens`` new ones take for all prompts together."""
        ids = torch.tensor(prompts)
        begun = time.perf_counter()
        with torch.inference_mode():
            self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return time.perf_counter() - begun

"""Teach soft prompts one answer each: ``python tests/e2e/teach.py MODEL`` writes data/planners.safetensors.

Trained as the demo's are: the model is frozen, and what is learned is the cross entropy of the answer and the
end of its turn, until greedy decoding says it. One ticket, one call: they are there to be checked.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from e2e.conftest import TICKET
from e2e.reference import Reference
from safetensors.torch import save_file

FILE = Path(__file__).parent / "data" / "planners.safetensors"
CALLS = {
    "find_parcel": '<tool_call>{"name": "find_parcel", "arguments": {"day": "Monday"}}</tool_call>',
    "refund": '<tool_call>{"name": "refund", "arguments": {"day": "Monday"}}</tool_call>',
}
"""What each soft prompt has the model say to the ticket, in the words that the hermes parser reads."""

ROWS = 8
STEPS = 200
MARGIN = 0.1
"""Between the logits of a taught token and the next best: far more than rounding."""


def taught(reference: Reference, answer: str) -> torch.Tensor:
    """Rows ``[8, hidden_size]`` with which the model gives that answer.

    Raises:
        RuntimeError: it was not learned in 200 steps.
    """
    model = reference.model.requires_grad_(requires_grad=False)
    ids = reference.chat_ids(TICKET)
    target = torch.tensor([*reference.text_ids(answer), model.config.eos_token_id])
    rows = reference.random_rows(ROWS, seed=1).requires_grad_()
    known = reference.embeddings([*ids, *target.tolist()])
    optimizer = torch.optim.Adam([rows], lr=0.02)
    for _ in range(STEPS):
        hidden = model.model(inputs_embeds=torch.cat([rows, known])[None])[0][0]
        logits = model.lm_head(hidden[-len(target) - 1 : -1])
        best, second = logits.detach().topk(2).values.unbind(-1)
        right = bool((logits.argmax(-1) == target).all())
        if right and float((best - second).min()) > MARGIN:
            return rows.detach()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, target).backward()
        optimizer.step()
    msg = f"{answer!r} was not learned in {STEPS} steps."
    raise RuntimeError(msg)


if __name__ == "__main__":
    torch.manual_seed(0)
    known = Reference(Path(sys.argv[1]))
    save_file({name: taught(known, answer) for name, answer in CALLS.items()}, FILE)

"""The probe at start: what it accepts as proof, and what it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from softprompt_serve.errors import StartupRefused
from softprompt_serve.vllm_plugin.probe import keys_refused, prove_overlay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

ANSWER = {5: -0.1, 6: -2.0}
OTHER = {7: -0.1, 8: -2.0}


class Workers:
    """One worker, which counts as if each overlaid answer had needed it."""

    def __init__(self) -> None:
        self.loads = 0
        self.unloads = 0
        self.applied = 0

    async def embed(self, ids: list[int]) -> tuple[list[int], bytes]:
        return [len(ids), 2], bytes(8 * len(ids))

    async def status(self) -> list[dict[str, Any]]:
        return [{"applied": self.applied}]

    async def load(self, *_: Any) -> tuple[str, ...]:
        self.loads += 1
        return ()

    async def unload(self, _digest: str, *, forget: bool) -> None:
        assert forget
        self.unloads += 1


class Engine:
    """Answers plain tokens always alike, and overlaid ones as it is told, in turn."""

    def __init__(self, workers: Workers, *overlaid: dict[int, float]) -> None:
        self.model_config = SimpleNamespace(get_vocab_size=lambda: 1000)
        self.workers = workers
        self.overlaid = list(overlaid)

    async def generate(self, _prompt: Any, params: Any, _name: str) -> AsyncIterator[Any]:
        answer = ANSWER
        if params.extra_args:
            answer = self.overlaid.pop(0)
            self.workers.applied += bool(answer)
        found = {token: SimpleNamespace(logprob=value) for token, value in answer.items()}
        yield SimpleNamespace(outputs=[SimpleNamespace(logprobs=[found] if found else None)])


async def test_the_same_answer_is_proof() -> None:
    workers = Workers()
    found = await prove_overlay(Engine(workers, ANSWER), workers, 0)
    assert found == {"rows": 3, "logprob_difference": 0.0, "workers": 1}
    assert workers.unloads == 2


async def test_a_probe_that_another_server_evicted_is_sent_again() -> None:
    workers = Workers()
    await prove_overlay(Engine(workers, {}, {}, ANSWER), workers, 0)
    assert workers.loads == 3


@pytest.mark.parametrize("answers", [[OTHER], [{}, OTHER], [{}] * 5])
async def test_another_answer_or_none_is_a_refusal(answers: list[dict[int, float]]) -> None:
    workers = Workers()
    with pytest.raises(StartupRefused, match="The overlay is not active"):
        await prove_overlay(Engine(workers, *answers), workers, 0)
    assert workers.unloads == 2


async def test_a_worker_that_overlaid_nothing_is_a_refusal() -> None:
    class Idle(Workers):
        async def status(self) -> list[dict[str, Any]]:
            return [{"applied": self.applied}, {"applied": 7}]

    workers = Idle()
    with pytest.raises(StartupRefused, match=r"overlays per worker \[0, 7\] → \[1, 7\]"):
        await prove_overlay(Engine(workers, ANSWER), workers, 0)


async def test_keys_and_values_that_answer_alike_are_proof() -> None:
    workers = Workers()
    found = await prove_overlay(Engine(workers, ANSWER, ANSWER, ANSWER), workers, 0, deep=True)
    assert found["keys_difference"] == 0.0
    assert keys_refused(found) is None


@pytest.mark.parametrize("loaded", [OTHER, {}])
async def test_keys_and_values_that_answer_otherwise_are_not_served(
    loaded: dict[int, float],
) -> None:
    workers = Workers()
    found = await prove_overlay(Engine(workers, ANSWER, ANSWER, loaded), workers, 0, deep=True)
    assert "Keys and values are not served" in (keys_refused(found) or "")

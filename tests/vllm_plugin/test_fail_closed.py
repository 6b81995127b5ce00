"""A missing version fails one request: marks on real outputs, ends in the real scheduler."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreRequest, FinishReason
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, AsyncModelRunnerOutput, ModelRunnerOutput

from softprompt_serve.errors import BadRequest
from softprompt_serve.vllm_plugin.fail_closed import (
    MARK,
    patch_engine_core,
    patch_scheduler,
    patch_worker,
)
from softprompt_serve.vllm_plugin.overlay import Overlay
from softprompt_serve.vllm_plugin.reference import KEY, Reference, salt_for

if TYPE_CHECKING:
    from collections.abc import Callable

DIGEST = "ab" * 32
PLACEHOLDER = 96
PROMPT = list(range(10, 30))
SALT = salt_for(DIGEST, None)


def output(**sampled: list[int]) -> ModelRunnerOutput:
    return ModelRunnerOutput(
        req_ids=list(sampled),
        req_id_to_index={name: index for index, name in enumerate(sampled)},
        sampled_token_ids=list(sampled.values()),
    )


class Later(AsyncModelRunnerOutput):
    """An output that arrives when it is asked for."""

    def __init__(self, result: ModelRunnerOutput) -> None:
        self.result = result

    def get_output(self) -> ModelRunnerOutput:
        return self.result


def worker(overlay: Overlay, answer: Any) -> Any:
    """A worker whose step answers ``answer``, patched."""

    class Worker:
        def execute_model(self, scheduler_output: Any) -> Any:
            return answer

        def sample_tokens(self, grammar_output: Any) -> Any:
            return answer

    patch_worker(Worker, AsyncModelRunnerOutput, overlay)
    return Worker()


def failing(*request_ids: str) -> Overlay:
    overlay = Overlay()
    overlay.failed.update(request_ids)
    return overlay


def marks(answer: Any) -> Any:
    return getattr(answer, MARK, None)


@pytest.mark.parametrize("method", ["execute_model", "sample_tokens"])
def test_a_failed_request_is_marked_on_the_output(method: str) -> None:
    answer = getattr(worker(failing("a"), output(a=[1], b=[2])), method)(None)
    assert marks(answer) == {"a"}


def test_what_a_failed_request_sampled_is_dropped_and_others_keep_theirs() -> None:
    answer = worker(failing("a"), output(a=[1], b=[2])).execute_model(None)
    assert answer.sampled_token_ids == [[], [2]]


def test_a_chunk_that_sampled_nothing_is_marked_too() -> None:
    chunk = ModelRunnerOutput(req_ids=["a"], req_id_to_index={"a": 0})
    assert marks(worker(failing("a"), chunk).execute_model(None)) == {"a"}


def test_only_requests_of_this_step_are_marked() -> None:
    assert marks(worker(failing("a", "z"), output(a=[1])).execute_model(None)) == {"a"}


def test_without_a_failure_the_output_is_left_alone() -> None:
    answer = worker(Overlay(), output(a=[1])).execute_model(None)
    assert marks(answer) is None
    assert answer.sampled_token_ids == [[1]]


def test_vllms_shared_empty_output_is_never_marked() -> None:
    worker(failing("a"), EMPTY_MODEL_RUNNER_OUTPUT).execute_model(None)
    assert marks(EMPTY_MODEL_RUNNER_OUTPUT) is None


def test_a_step_without_an_output_stays_without() -> None:
    assert worker(failing("a"), None).execute_model(None) is None


def test_an_asynchronous_output_is_marked_when_it_arrives() -> None:
    answer = worker(failing("a"), Later(output(a=[1], b=[2]))).execute_model(None)
    assert isinstance(answer, AsyncModelRunnerOutput)
    arrived = answer.get_output()
    assert (marks(arrived), arrived.sampled_token_ids) == ({"a"}, [[], [2]])


def test_an_asynchronous_output_is_marked_with_its_own_steps_failures() -> None:
    overlay = failing("a")
    answer = worker(overlay, Later(output(a=[1], b=[2]))).execute_model(None)
    overlay.release("a")
    overlay.failed.add("b")
    assert marks(answer.get_output()) == {"a"}


def test_the_mark_survives_the_way_to_the_engines_process() -> None:
    answer = worker(failing("a"), output(a=[1], b=[2])).execute_model(None)
    arrived = pickle.loads(pickle.dumps(answer))
    assert (marks(arrived), arrived.sampled_token_ids) == ({"a"}, [[], [2]])


@pytest.fixture
def scheduler(make_scheduler: Callable[[type[Any]], Any]) -> Any:
    class Patched(Scheduler):
        pass

    patch_scheduler(Patched)
    return make_scheduler(Patched)


def marked(result: ModelRunnerOutput, *request_ids: str) -> ModelRunnerOutput:
    for request_id in request_ids:
        result.sampled_token_ids[result.req_id_to_index[request_id]] = []
    setattr(result, MARK, frozenset(request_ids))
    return result


def finished(outputs: Any) -> dict[str, Any]:
    return {o.request_id: o.finish_reason for o in outputs[0].outputs}


def tokens(outputs: Any) -> dict[str, list[int]]:
    return {o.request_id: o.new_token_ids for o in outputs[0].outputs}


def test_a_marked_request_ends_with_an_error_in_the_same_step(
    scheduler: Any, make_request: Callable[..., Any]
) -> None:
    scheduler.add_request(make_request("a", PROMPT, SALT))
    step = scheduler.schedule()
    outputs = scheduler.update_from_output(step, marked(output(a=[5]), "a"))
    assert finished(outputs).get("a") == FinishReason.ERROR
    assert tokens(outputs)["a"] == []
    assert not scheduler.requests


def test_other_requests_of_the_step_go_on(scheduler: Any, make_request: Callable[..., Any]) -> None:
    scheduler.add_request(make_request("a", PROMPT, SALT))
    scheduler.add_request(make_request("b", PROMPT, "another"))
    step = scheduler.schedule()
    outputs = scheduler.update_from_output(step, marked(output(a=[5], b=[6]), "a"))
    assert tokens(outputs)["b"] == [6]
    assert [request.request_id for request in scheduler.running] == ["b"]
    assert scheduler.schedule().num_scheduled_tokens == {"b": 1}


def test_an_unmarked_step_is_vllms_own(scheduler: Any, make_request: Callable[..., Any]) -> None:
    scheduler.add_request(make_request("a", PROMPT, SALT))
    step = scheduler.schedule()
    outputs = scheduler.update_from_output(step, output(a=[5]))
    assert (tokens(outputs), finished(outputs)) == ({"a": [5]}, {"a": None})


def cached_tokens(scheduler: Any, request: Any) -> int:
    """How many tokens of a new request the prefix cache would answer."""
    scheduler.add_request(request)
    step = scheduler.schedule()
    return len(PROMPT) - step.num_scheduled_tokens[request.request_id]


def test_a_healthy_requests_blocks_are_reused(
    scheduler: Any, make_request: Callable[..., Any]
) -> None:
    scheduler.add_request(make_request("a", PROMPT, SALT))
    scheduler.update_from_output(scheduler.schedule(), output(a=[5]))
    assert cached_tokens(scheduler, make_request("b", PROMPT, SALT)) == 16


def test_a_failed_requests_blocks_are_never_reused(
    scheduler: Any, make_request: Callable[..., Any]
) -> None:
    scheduler.add_request(make_request("a", PROMPT, SALT))
    scheduler.update_from_output(scheduler.schedule(), marked(output(a=[5]), "a"))
    assert cached_tokens(scheduler, make_request("b", PROMPT, SALT)) == 0


def test_a_healthy_versions_blocks_stay_when_another_fails(
    scheduler: Any, make_request: Callable[..., Any]
) -> None:
    scheduler.add_request(make_request("a", PROMPT, SALT))
    scheduler.add_request(make_request("b", PROMPT, "another"))
    step = scheduler.schedule()
    scheduler.update_from_output(step, marked(output(a=[5], b=[6]), "a"))
    assert cached_tokens(scheduler, make_request("c", PROMPT, "another")) == 16


def test_a_request_scheduled_onto_failed_blocks_ends_with_them(
    scheduler: Any, make_request: Callable[..., Any]
) -> None:
    scheduler.add_request(make_request("a", PROMPT, SALT))
    first = scheduler.schedule()
    scheduler.add_request(make_request("b", PROMPT, SALT))  # async scheduling is a step ahead
    second = scheduler.schedule()
    assert second.num_scheduled_tokens["b"] == 4
    outputs = scheduler.update_from_output(first, marked(output(a=[5]), "a"))
    assert finished(outputs) == {"a": FinishReason.ERROR, "b": FinishReason.ERROR}
    late = scheduler.update_from_output(second, output(b=[7]))
    assert not late or not late[0].outputs


def test_blocks_of_a_request_that_ended_with_a_failed_one_are_never_reused(
    scheduler: Any, make_request: Callable[..., Any]
) -> None:
    longer = [*PROMPT, *range(50, 58)]
    scheduler.add_request(make_request("a", PROMPT, SALT))
    first = scheduler.schedule()
    scheduler.add_request(make_request("b", longer, SALT))
    scheduler.schedule()
    scheduler.update_from_output(first, marked(output(a=[5]), "a"))
    scheduler.add_request(make_request("c", PROMPT, SALT))  # computes what both began with, rightly
    scheduler.update_from_output(scheduler.schedule(), output(c=[5]))
    scheduler.add_request(make_request("d", longer, SALT))
    scheduled = scheduler.schedule().num_scheduled_tokens["d"]
    assert len(longer) - scheduled == len(PROMPT)


def test_blocks_of_a_request_that_was_preempted_meanwhile_are_never_reused(
    scheduler: Any, make_request: Callable[..., Any]
) -> None:
    request = make_request("a", PROMPT, SALT)
    scheduler.add_request(request)
    step = scheduler.schedule()
    scheduler.running.remove(request)
    scheduler._preempt_request(request, 0.0)
    outputs = scheduler.update_from_output(step, marked(output(a=[5]), "a"))
    assert finished(outputs)["a"] == FinishReason.ERROR
    assert cached_tokens(scheduler, make_request("b", PROMPT, SALT)) == 0


def test_a_mark_of_a_request_that_was_aborted_meanwhile_is_fine(
    scheduler: Any, make_request: Callable[..., Any]
) -> None:
    from vllm.v1.request import RequestStatus  # noqa: PLC0415

    scheduler.add_request(make_request("a", PROMPT, SALT))
    scheduler.add_request(make_request("b", PROMPT, "another"))
    step = scheduler.schedule()
    scheduler.finish_requests("a", RequestStatus.FINISHED_ABORTED)
    outputs = scheduler.update_from_output(step, marked(output(a=[5], b=[6]), "a"))
    assert tokens(outputs) == {"b": [6]}


def engine_request(
    token_ids: list[int] | None, salt: str | None, extra: dict[str, Any] | None
) -> EngineCoreRequest:
    from vllm import SamplingParams  # noqa: PLC0415

    return EngineCoreRequest(
        request_id="a",
        prompt_token_ids=token_ids,
        mm_features=None,
        sampling_params=SamplingParams(extra_args=extra),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=salt,
        data_parallel_rank=None,
    )


def enter(request: EngineCoreRequest) -> str:
    """Hand a request to a patched engine core; its own step says ``entered``."""

    class Core:
        vllm_config = SimpleNamespace()

        def preprocess_add_request(self, request: Any) -> str:
            return "entered"

    patch_engine_core(Core, lambda _config: PLACEHOLDER)
    return Core().preprocess_add_request(request)


REFERENCE = {KEY: Reference(DIGEST, 2).to_extra_args()}
LED = [PLACEHOLDER, PLACEHOLDER, 7]


@pytest.mark.parametrize(
    ("token_ids", "salt", "extra"),
    [
        ([1, 2], None, None),
        ([1, 2], "a user's own", {"theirs": 1}),
        (None, None, None),
        (LED, SALT, REFERENCE),
        (LED, salt_for(DIGEST, "a user's own"), REFERENCE),
    ],
)
def test_a_request_whose_parts_agree_enters_the_engine(
    token_ids: list[int] | None, salt: str | None, extra: dict[str, Any] | None
) -> None:
    assert enter(engine_request(token_ids, salt, extra)) == "entered"


@pytest.mark.parametrize(
    ("token_ids", "salt", "extra"),
    [
        (LED, None, REFERENCE),
        (LED, "another", REFERENCE),
        (LED, salt_for("cd" * 32, None), REFERENCE),
        (LED, SALT, None),
        ([PLACEHOLDER, 7, 7], SALT, REFERENCE),
        ([PLACEHOLDER], SALT, REFERENCE),
        (None, SALT, REFERENCE),
        (LED, SALT, {KEY: "v2"}),
    ],
)
def test_a_request_whose_parts_disagree_does_not(
    token_ids: list[int] | None, salt: str | None, extra: dict[str, Any] | None
) -> None:
    with pytest.raises(BadRequest):
        enter(engine_request(token_ids, salt, extra))


def test_a_request_without_sampling_is_not_ours_to_judge() -> None:
    pooling = SimpleNamespace(sampling_params=None, cache_salt=None, prompt_token_ids=[1])
    assert enter(pooling) == "entered"  # type: ignore[arg-type]

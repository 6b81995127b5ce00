"""A server in the middle of a release, for pictures and tests of the console.

Everything is real but the engine: versions with their records, a rollout that its controller moves on,
counts of a second replica's, a shadow.
"""
# ruff: noqa: PLR2004, S311 - numbers of a made-up story, and seeded dice for it

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import time
from typing import TYPE_CHECKING, Any, Final

import httpx
import torch
from safetensors.torch import save

from softprompt_serve.registry.replicas import Serving
from softprompt_serve.registry.tallies import Tally
from softprompt_serve.release.evidence import Answer, Run, Score
from softprompt_serve.release.evidence_shapes import to_document
from softprompt_serve.release.records import BaseModelIdentity
from softprompt_serve.rollout.tally import Counts
from softprompt_serve.testing import (
    ADMIN_TOKEN,
    FakeWorkers,
    app_for_tests,
    service_for_tests,
    serving,
    settings_for_tests,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from softprompt_serve.server.service import Service

HIDDEN: Final = 4096
BASE: Final = BaseModelIdentity(
    name="meta-llama/Llama-3.1-8B-Instruct", revision="0e9e39f249a16976"
)
SECONDS: Final = 20.0
TEXT: Final = (
    "You sort a shop's tickets. Answer with one label and nothing else: billing, delivery, return, "
    "account, product, complaint, praise or other."
)
STEPS: Final = [
    {"weight": 1, "min_requests": 200, "min_duration_seconds": 0},
    {"weight": 10, "min_requests": 20_000, "min_duration_seconds": 900},
    {"weight": 50, "min_requests": 50_000, "min_duration_seconds": 3600},
]
POLICY: Final = {
    "baseline": "v1",
    "win": [{"evaluator": "exact_match", "dataset": "support-test"}],
    "hold": [{"evaluator": "exact_match", "dataset": "support-ood"}],
    "cohorts": {"protected": ["regulated"], "max_drop": 0.05},
    "latency": {"max_ratio": 1.2},
    "same_base": False,
}
GATES: Final = [
    {"metric": "error_rate", "max_increase": 0.01},
    {"metric": "ttft", "quantile": 0.95, "max_ratio": 1.3},
    {"metric": "cost", "quantile": 0.5, "max_ratio": 1.2},
    {"metric": "feedback_failures", "max_increase": 0.02},
]


class Scene:
    """A running server, and what is done to it over its admin API or behind its back.

    Attributes:
        url: where it is.
        service: what it serves; its methods that block may be called from here.
        http: the admin API, with its token.
    """

    def __init__(self, url: str, service: Service) -> None:
        self.url = url
        self.service = service
        self.http = httpx.Client(
            base_url=f"{url}/softprompts/v1",
            headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
            timeout=30,
        )

    def call(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        """One call of the admin API that must be accepted."""
        answer = self.http.request(method, path, **given)
        if not answer.is_success:
            msg = f"{method} {path}: {answer.text}"
            raise RuntimeError(msg)
        found: dict[str, Any] = answer.json()
        return found

    def soft(
        self, prompt: str, version: str, rows: int = 20, *, actor: str = "ci", record: str = "{}"
    ) -> None:
        """Import a tensor of its own."""
        dice = torch.Generator().manual_seed(sum(map(ord, prompt + version)))
        tensor = save({"prompt": torch.randn(rows, HIDDEN, generator=dice)})
        self.call(
            "POST",
            f"/prompts/{prompt}/versions",
            files={"tensor": ("prompt.safetensors", tensor)},
            data={"version": version, "record": record},
            params={"actor": actor},
        )

    def hard(self, prompt: str, version: str, text: str, *, actor: str = "ada") -> None:
        """Import a text."""
        self.call(
            "POST",
            f"/prompts/{prompt}/versions",
            data={"version": version, "text": text},
            params={"actor": actor},
        )

    def alias(self, prompt: str, version: str, alias: str = "production") -> None:
        """Point an alias at a version."""
        path = f"/prompts/{prompt}/aliases/{alias}"
        self.call("PUT", path, json={"version": version}, params={"actor": "ada"})

    def roll_out(self, prompt: str, document: Mapping[str, Any], *, actor: str = "ada") -> None:
        """Put a rollout."""
        self.call("PUT", f"/prompts/{prompt}/rollout", json=document, params={"actor": actor})

    def rollout(self, prompt: str) -> dict[str, Any]:
        """The rollout as the API shows it."""
        return self.call("GET", f"/prompts/{prompt}/rollout")

    def until(self, prompt: str, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until a rollout is in a state."""
        deadline = time.monotonic() + SECONDS
        while not holds(found := self.rollout(prompt)):
            if time.monotonic() > deadline:
                msg = f"The rollout did not come so far: {found}"
                raise TimeoutError(msg)
            time.sleep(0.05)
        return found

    def count(
        self, prompt: str, version: str, answers: int, *, cohort: str = "default", **like: float
    ) -> None:
        """Let a second replica have counted answers of a version.

        Args:
            prompt: its prompt.
            version: which.
            answers: how many.
            cohort: whose.
            **like: shares ``failing``, ``reacting``, ``unhappy``, and medians ``ttft`` (seconds),
                ``tokens``, ``usd``.
        """
        dice = random.Random(f"{version}{cohort}")
        counts = Counts()
        counts.count("requests", answers)
        counts.count("failures", round(answers * like.get("failing", 0.004)))
        counts.count("feedback", round(answers * like.get("reacting", 0.06)))
        counts.count("feedback_failures", round(answers * like.get("unhappy", 0.015)))
        for _ in range(answers):
            ttft = dice.lognormvariate(0, 0.35) * like.get("ttft", 0.18)
            tokens = max(1, round(dice.lognormvariate(0, 0.5) * like.get("tokens", 120)))
            counts.measure("ttft", ttft)
            counts.measure("e2e", ttft + tokens * 0.012)
            counts.measure("output_tokens", tokens)
            counts.measure("cost", tokens * like.get("usd", 1.6e-6))
        epoch = self.rollout(prompt)["epoch"]
        row = Tally(prompt, epoch, "replica-b", "requests", version, cohort, counts.to_json())
        self.service.tallies.write([row])

    def shadow(self, prompt: str, version: str, pairs: int) -> None:
        """Let a second replica have compared a shadow's answers."""
        exact, scored = round(pairs * 0.62), round(pairs * 0.9)
        data = {
            "offered": pairs + 40,
            "pairs": pairs,
            "exact": exact,
            "mismatches": pairs - exact,
            "finish_equal": round(pairs * 0.985),
            "scored": scored,
            "scored_tokens": scored * 110,
            "shed": {"busy": 31, "timeout": 9},
            "means": {
                "similarity": [pairs, pairs * 0.91, pairs * 0.85],
                "token_delta": [pairs, pairs * -3.2, pairs * 190.0],
                "ttft_delta": [pairs, pairs * 0.004, pairs * 0.0025],
                "e2e_delta": [pairs, pairs * -0.031, pairs * 0.21],
                "divergence": [scored, scored * 0.043, scored * 0.006],
                "surprise": [scored, scored * 0.61, scored * 0.5],
            },
            "divergence": {"280": scored},
        }
        epoch = self.rollout(prompt)["epoch"]
        row = Tally(prompt, epoch, "replica-b", "shadow", version, "default", data)
        self.service.tallies.write([row])

    def second_replica(self, prompt: str) -> None:
        """A second replica that follows the prompt's rollout, as long as it is live."""
        rollout = self.rollout(prompt)
        versions = tuple(sorted(rollout["weights"]))
        serving_it = {prompt: Serving(rollout["generation"], versions)}
        self.service.replicas.beat("replica-b", "support-7c9f-b", 1, serving_it)

    def running(self, prompt: str, version: str, requests: int) -> None:
        """Let requests be in flight on a version, for as long as the server lives."""
        found = self.service.find_version(prompt, version)
        workers = self.service.residency.workers
        for number in range(requests):
            self.service.residency.lease(found)
            if isinstance(workers, FakeWorkers):
                workers.slots.hold(found.digest, f"{found.label} {number}")

    def run(
        self, prompt: str, dataset: str, items: int, found: Mapping[str, tuple[float, float]]
    ) -> None:
        """Let versions have been evaluated on a data set; every fifth item is regulated.

        Args:
            prompt: theirs.
            dataset: its name.
            items: how many it has.
            found: version → the share of items that it answers as it should, and the seconds that
                an answer takes.
        """
        dice = random.Random(dataset)
        hard = [dice.random() for _ in range(items)]
        asked = [
            (version, f"{dataset}-{number:03}", "regulated" if number % 5 == 0 else "default", item)
            for version in found
            for number, item in enumerate(hard)
        ]
        passed = [dice.gauss(item, 0.12) < found[version][0] for version, _, _, item in asked]
        run = Run(
            id=hashlib.sha256(f"{prompt} {dataset}".encode()).hexdigest()[:32],
            prompt=prompt,
            dataset=dataset,
            dataset_sha256=hashlib.sha256(dataset.encode()).hexdigest(),
            digests={name: self.service.find_version(prompt, name).digest for name in found},
            evaluators={"exact_match": "1"},
            base=self.service.served.identity,
            at=time.time() - 3600,
            sampling={"temperature": 0.0, "max_tokens": 8},
            actor="ci",
            scores=tuple(
                Score(item, version, cohort, "exact_match", float(fine), fine)
                for (version, item, cohort, _), fine in zip(asked, passed, strict=True)
            ),
            answers=tuple(
                Answer(item, version, cohort, 0.1, found[version][1], 180, 20, 4, 8e-5)
                for version, item, cohort, _ in asked
            ),
        )
        self.call("POST", f"/prompts/{prompt}/runs", content=to_document(run))


@contextlib.contextmanager
def served(home: Path, *, workers: FakeWorkers | None = None, **changes: Any) -> Iterator[Scene]:
    """A server with fake workers, and nothing in it yet."""
    settings = settings_for_tests(
        home,
        **{
            "heartbeat_seconds": 0.1,
            "controller_seconds": 0.1,
            "cohorts": ("regulated",),
            "price_input": 0.4,
            "price_cached_input": 0.1,
            "price_virtual": 0.2,
            "price_output": 1.6,
            "replica_name": "support-7c9f-a",
            **changes,
        },
    )
    service = service_for_tests(
        home,
        workers=workers or FakeWorkers(256, hidden_size=HIDDEN, ranks=2),
        settings=settings,
        identity=BASE,
    )
    with serving(app_for_tests(service)) as url:
        scene = Scene(url, service)
        try:
            yield scene
        finally:
            scene.http.close()


def record(number: int, right: float) -> str:
    """The release record of one of ``support``'s versions, as JSON."""
    digits = "0123456789abcdef"
    sha256 = "".join(random.Random(number).choices(digits, k=64))
    return json.dumps(
        {
            "dataset": "tickets/2026-01",
            "dataset_version": f"{number}.0",
            "dataset_sha256": sha256,
            "base_model": BASE.name,
            "base_model_revision": BASE.revision,
            "method": "prompt_tuning",
            "optimizer": {"name": "AdamW", "learning_rate": 0.02, "batch_size": 8, "epochs": 3},
            "seed": number,
            "init": f"rows of v{number - 1}" if number > 2 else "text of v1",
            "training_code": "tickets-tuning@8f2c1d7",
            "metrics": {"right_answers": right, "train_loss": round(1.1 - right, 3)},
            "created_by": "ada",
            "notes": "Tickets of January, with typos. Frozen base, float32.",
        }
    )


def midway(scene: Scene, answers: int = 9000) -> None:
    """``support`` is in the second of three steps of v3's release; two other prompts rest."""
    scene.hard("support", "v1", TEXT)
    scene.soft("support", "v2", 20, record=record(2, 0.894))
    scene.alias("support", "v2")
    scene.soft("support", "v3", 24, record=record(3, 0.931), actor="ci")
    scene.soft("support", "v4", 32, actor="ci")
    scene.alias("support", "v3", "candidate")
    scene.soft("triage", "v1", 16)
    scene.alias("triage", "v1")
    scene.soft("triage", "v2", 16)
    scene.roll_out(
        "triage",
        {"arms": [{"version": "v1", "weight": 80}, {"version": "v2", "weight": 20}]},
    )
    scene.hard("greeting", "v1", "Answer in the customer's language, in one sentence.")
    scene.alias("greeting", "v1")
    scene.hard("refunds", "v1", "Say whether the ticket asks for a refund: yes or no.")
    document = {
        "arms": [{"version": "v2", "weight": 100}, {"version": "v3", "weight": 0}],
        "rules": [{"name": "regulated", "match": {"cohort": ["regulated"]}, "version": "v2"}],
        "shadow": {"version": "v3", "sample": 0.1, "mode": "both"},
        "steps": STEPS,
        "gates": GATES,
    }
    scene.roll_out("support", document)
    scene.until("support", lambda seen: seen["step"] is not None)
    scene.count("support", "v3", 220, failing=0.003, unhappy=0.011, ttft=0.171, tokens=104)
    scene.until("support", lambda seen: seen["step"]["index"] == 1)
    scene.count("support", "v2", answers * 8, failing=0.0041, unhappy=0.016)
    scene.count("support", "v3", answers, failing=0.0036, unhappy=0.0113, ttft=0.171, tokens=104)
    scene.count("triage", "v1", 4000, ttft=0.22)
    scene.count("triage", "v2", 1000, ttft=0.21)
    scene.shadow("support", "v3", 840)
    scene.running("support", "v2", 6)
    scene.running("support", "v3", 1)
    scene.until(
        "support",
        lambda seen: (
            seen["applied"]
            and any(gate["candidate"]["n"] > 1000 for gate in seen["findings"]["gates"])
        ),
    )


def judged(scene: Scene) -> None:
    """``support``'s v2 wins where it must and has not shown that it holds elsewhere; v3 passes all.

    The server has to enforce policies.
    """
    scene.hard("support", "v1", TEXT)
    scene.alias("support", "v1")
    scene.soft("support", "v2", 20, record=record(2, 0.894))
    scene.soft("support", "v3", 24, record=record(3, 0.931))
    scene.call("PUT", "/prompts/support/policy", json=POLICY, params={"actor": "ada"})
    v1, v2, v3 = (0.72, 0.41), (0.86, 0.52), (0.9, 0.44)
    scene.run("support", "support-test", 480, {"v1": v1, "v2": v2, "v3": v3})
    v1, v2, v3 = (0.7, 0.41), (0.68, 0.52), (0.84, 0.44)
    scene.run("support", "support-ood", 160, {"v1": v1, "v2": v2, "v3": v3})
    document = {"arms": [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]}
    scene.roll_out("support", document)

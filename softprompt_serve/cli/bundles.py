"""Commands on bundles: a version with its record and evaluations, from one server to another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt_serve.cli import bundle_views
from softprompt_serve.cli.client import Answer, version_path
from softprompt_serve.cli.files import read_file, write_file
from softprompt_serve.cli.moving import CREATED, send_runs, send_version
from softprompt_serve.cli.prompts import Label, split_label
from softprompt_serve.cli.session import FAILED, Json, Token, Url, connected
from softprompt_serve.errors import SoftpromptError
from softprompt_serve.release import signing
from softprompt_serve.release.bundle import MEDIA_TYPE, Bundle, filename, unpack
from softprompt_serve.release.members import MAX_BYTES

_KEY_BYTES = 64 * 1024


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("export")(export)
    app.command("import-bundle")(import_bundle)


def export(
    label: Label,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Else PROMPT-VERSION.spb.", show_default=False
        ),
    ] = None,
    *,
    evaluations: Annotated[
        bool, typer.Option(help="With the stored evaluations that asked it.")
    ] = True,
    sign: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Sign it with this Ed25519 private key, a PEM file."),
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Write a version, its record and its evaluations into one file.

    VERSION may be an alias. The same version gives the same bytes each time.
    """
    with connected(url, token, as_json=as_json) as session:
        key = None if sign is None else read_file(sign, _KEY_BYTES)
        path = f"{version_path(*split_label(label))}/bundle"
        data = session.api.download(
            path, MEDIA_TYPE, evaluations="true" if evaluations else "false"
        )
        if key is not None:
            data = signing.sign(data, key)
        bundle = unpack(data)
        target = output or Path(filename(bundle.prompt, bundle.version))
        write_file(target, data)
        found = _described(bundle, data) | {"file": str(target)}
        session.show(Answer(200, json.dumps(found), found), bundle_views.exported)


def import_bundle(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)],
    *,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", "-p", metavar="PROMPT", help="Under another prompt; evaluations stay out."
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Only if signed by this Ed25519 public key, a PEM file."),
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Import versions from bundles: the same content, record and evaluations.

    Everything in all files is checked before anything is imported. An evaluation is taken where all
    versions are that it compares, so give a version's bundle together with its baseline's.
    """
    with connected(url, token, as_json=as_json) as session:
        key = None if verify is None else read_file(verify, _KEY_BYTES)
        bundles = [_checked(path, key) for path in paths]
        answers = [send_version(session.api, bundle, prompt) for bundle, _ in bundles]
        sent = [send_runs(session.api, bundle, prompt) for bundle, _ in bundles]
        data = [
            {
                "bundle": described,
                "verified": key is not None,
                "created": answer.status == CREATED,
                "version": answer.data,
                "evaluations": runs.to_json(),
            }
            for (_, described), answer, runs in zip(bundles, answers, sent, strict=True)
        ]
        found = {"data": data}
        session.show(Answer(CREATED, json.dumps(found), found), bundle_views.imported)
        if any(runs.refused for runs in sent):
            raise typer.Exit(FAILED)


def _checked(path: Path, key: bytes | None) -> tuple[Bundle, dict[str, Any]]:
    """The bundle in a file, and what it is for a person.

    Raises:
        BadRequest: whatever keeps it from being taken; the message names the file.
    """
    data = read_file(path, MAX_BYTES)
    try:
        if key is not None:
            signing.verify(data, key)
        bundle = unpack(data)
        return bundle, _described(bundle, data)
    except SoftpromptError as error:
        error.message = f"{path}: {error.message}"
        raise


def _described(bundle: Bundle, data: bytes) -> dict[str, Any]:
    return {
        "prompt": bundle.prompt,
        "version": bundle.version,
        "kind": bundle.content.kind,
        "digest": bundle.content.digest,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "evaluations": sorted(bundle.runs),
        "base_model": bundle.base.name,
        "signed_by": signing.signer(bundle.signature),
    }

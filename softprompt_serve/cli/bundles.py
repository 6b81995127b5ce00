"""Commands on bundles: a version with its record and evaluations, from one server to another."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt_serve.cli import bundle_views
from softprompt_serve.cli.client import Answer, ApiError, prompt_path, version_path
from softprompt_serve.cli.files import read_file, write_file
from softprompt_serve.cli.prompts import Label, split_label
from softprompt_serve.cli.session import Json, Token, Url, connected
from softprompt_serve.errors import Conflict
from softprompt_serve.release import signing
from softprompt_serve.release.bundle import MEDIA_TYPE, Bundle, filename, unpack
from softprompt_serve.release.members import MAX_BYTES

if TYPE_CHECKING:
    from softprompt_serve.cli.client import Api

_CREATED, _NOT_FOUND = 201, 404
_KEY_BYTES = 64 * 1024
_NO_EVIDENCE = "this server takes no evaluations"


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
    path: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    *,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", "-p", metavar="PROMPT", help="Under another prompt; evaluations stay out."
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Accept it only if signed by this Ed25519 public key."),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Accept only a file of this SHA-256.")
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Import a version from a bundle: the same content, record and evaluations.

    Everything in the file is checked first. Evaluations that this server can't take, because it
    lacks a version that they compare with, are named; import that one's bundle and this one again.
    """
    with connected(url, token, as_json=as_json) as session:
        data = read_file(path, MAX_BYTES)
        _check_file(data, sha256, verify)
        bundle = unpack(data)
        answer = _send_version(session.api, bundle, prompt or bundle.prompt)
        evidence = _send_runs(session.api, bundle, prompt or bundle.prompt)
        found = {
            "bundle": _described(bundle, data),
            "verified": verify is not None,
            "created": answer.status == _CREATED,
            "version": answer.data,
            "evaluations": evidence.to_json(),
        }
        session.show(Answer(answer.status, json.dumps(found), found), bundle_views.imported)
        if evidence.refused:
            raise typer.Exit(1)


@dataclass(slots=True)
class Evidence:
    """What became of a bundle's runs, by id.

    Attributes:
        imported, known: taken now, and there already.
        left_out: not taken, and why.
        refused: whether the server, which takes runs, did not take one.
    """

    imported: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    refused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"imported": self.imported, "known": self.known, "left_out": self.left_out}


def _check_file(data: bytes, sha256: str | None, verify: Path | None) -> None:
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and sha256.lower() != found:
        msg = f"The file's SHA-256 is {found}, not {sha256}. Nothing was imported."
        raise Conflict(msg, code="bundle_hash")
    if verify is not None:
        signing.verify(data, read_file(verify, _KEY_BYTES))


def _send_version(api: Api, bundle: Bundle, prompt: str) -> Answer:
    """Import the version; its digest and its record are those of the bundle, or this fails."""
    content = bundle.content
    record = bundle.record.given()
    form = {
        "version": bundle.version,
        "kind": content.kind,
        "digest": content.digest,
        "record": json.dumps(record, ensure_ascii=False),
    }
    if content.text is not None:
        form["text"] = content.text
    tensor = None if bundle.tensor is None else ("prompt.safetensors", io.BytesIO(bundle.tensor))
    answer = api.change("POST", f"{prompt_path(prompt)}/versions", form=form, tensor=tensor)
    there = {name: value for name, value in answer.data["record"].items() if value is not None}
    label = f"{prompt}@{bundle.version}"
    if answer.data["digest"] != content.digest:
        msg = f"{label} has the digest {answer.data['digest']} there, not {content.digest}."
        raise Conflict(msg, code="digest_mismatch")
    if there != record:
        names = sorted(n for n in there.keys() | record.keys() if there.get(n) != record.get(n))
        msg = (
            f"{label} was there already with the same content, but with another release record, "
            f"which stays as it is. They differ in: {', '.join(names)}."
        )
        raise Conflict(msg, code="record_differs")
    return answer


def _send_runs(api: Api, bundle: Bundle, prompt: str) -> Evidence:
    evidence = Evidence()
    if prompt != bundle.prompt:
        why = f"it is about the prompt {bundle.prompt}"
        evidence.left_out = dict.fromkeys(bundle.runs, why)
        return evidence
    for run, document in bundle.runs.items():
        try:
            answer = api.change("POST", f"{prompt_path(prompt)}/runs", json_text=document)
        except ApiError as error:
            if error.http_status == _NOT_FOUND and error.code == "not_softprompt_serve":
                evidence.left_out = dict.fromkeys(bundle.runs, _NO_EVIDENCE)
                return evidence
            evidence.left_out[run] = f"{error.message} ({error.code})"
            evidence.refused = True
        else:
            (evidence.imported if answer.status == _CREATED else evidence.known).append(run)
    return evidence


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

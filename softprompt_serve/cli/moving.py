"""From a bundle to a server: its version, then its evaluations."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.cli.client import ApiError, prompt_path
from softprompt_serve.errors import Conflict

if TYPE_CHECKING:
    from softprompt_serve.cli.client import Answer, Api
    from softprompt_serve.release.bundle import Bundle

CREATED: Final = 201
NOT_FOUND: Final = 404


@dataclass(slots=True)
class Runs:
    """What became of a bundle's runs, by id.

    Attributes:
        imported, known: taken now, and there already.
        left_out: not taken, and why.
        refused: whether the server refused one, and not for want of a version that it compares.
    """

    imported: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    refused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"imported": self.imported, "known": self.known, "left_out": self.left_out}


def send_version(api: Api, bundle: Bundle, prompt: str | None) -> Answer:
    """Import a bundle's version, under ``prompt`` if that is given.

    Returns:
        The version; status 201 if it is new, 200 if it was there.

    Raises:
        ApiError, Unreachable: from the server; ``digest_mismatch`` if it makes another digest of
            the content, and then nothing was imported.
        Conflict: ``record_differs``: the version was there, with another release record.
    """
    prompt = prompt or bundle.prompt
    content = bundle.content
    record = bundle.record.given()
    form = {
        "version": bundle.version,
        "kind": content.kind,
        "digest": content.digest,
        "record": bundle.record.to_text(),
    }
    if content.text is not None:
        form["text"] = content.text
    tensor = None if bundle.tensor is None else ("prompt.safetensors", io.BytesIO(bundle.tensor))
    answer = api.change("POST", f"{prompt_path(prompt)}/versions", form=form, tensor=tensor)
    there = {name: value for name, value in answer.data["record"].items() if value is not None}
    label = f"{prompt}@{bundle.version}"
    if answer.data["digest"] != content.digest:  # of a server that can't be told to expect one
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


def send_runs(api: Api, bundle: Bundle, prompt: str | None) -> Runs:
    """Send a bundle's evaluations; what the server does not take is left out, with its reason.

    Raises:
        Unreachable: from the server.
    """
    runs = Runs()
    if prompt not in {None, bundle.prompt}:
        runs.left_out = dict.fromkeys(bundle.runs, f"It is about the prompt {bundle.prompt}.")
        return runs
    path = f"{prompt_path(bundle.prompt)}/runs"
    for run, document in bundle.runs.items():
        try:
            answer = api.change("POST", path, json_text=document)
        except ApiError as error:
            if error.code == "not_softprompt_serve":
                runs.left_out = dict.fromkeys(bundle.runs, "This server takes no evaluations.")
                return runs
            runs.left_out[run] = f"{error.message} ({error.code})"
            runs.refused = runs.refused or error.http_status != NOT_FOUND
        else:
            (runs.imported if answer.status == CREATED else runs.known).append(run)
    return runs

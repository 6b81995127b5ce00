"""An admin API under fuzz: a real server over HTTP, and what must hold after each call."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import torch
from safetensors.torch import save
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from softprompt_serve.errors import MAX_CHARS
from softprompt_serve.server.service import Service
from softprompt_serve.testing import (
    ADMIN_TOKEN,
    HIDDEN_SIZE,
    app_for_tests,
    service_for_tests,
    serving,
    settings_for_tests,
)

V1 = "/softprompts/v1"
PROMPT = "support"
CONFORMS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
_API = Path(__file__).parents[2] / "docs" / "api.md"


def documented() -> dict[int, set[str]]:
    """Status → codes, as docs/api.md lists them."""
    table = _API.read_text().split("## Errors")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([0-9]{3})[^|]* \| (.*) \|$", table, re.MULTILINE)
    return {int(status): set(re.findall(r"`([a-z_*]+)`", codes)) for status, codes in rows}


CODES = documented()
_FIELDS = ("message", "type", "param", "code")


class Admin:
    """One running server, seen from both sides."""

    def __init__(self, service: Service, url: str) -> None:
        self.service = service
        self.url = url
        self.session = requests.Session()
        self.session.headers["authorization"] = f"Bearer {ADMIN_TOKEN}"

    def state(self) -> tuple[Any, ...]:
        """All that a refused call must leave as it was."""
        catalogue = self.service.catalogue
        newest = catalogue.audit(limit=1)
        blobs = self.service.settings.home_dir / "blobs"
        return (
            catalogue.revision(),
            newest[0].id if newest else 0,
            sorted(path.name for path in blobs.glob("*/*")),
        )

    def call(self, case: Any, **request: Any) -> requests.Response:
        """Send a case; whatever it was, the answer is one that the documents promise."""
        before = self.state()
        answer = case.call(base_url=self.url, session=self.session, **request)
        check_answer(answer.status_code, answer.json)
        case.validate_response(answer, checks=CONFORMS, headers=request.get("headers"))
        if answer.status_code >= 400:
            assert self.state() == before, f"{answer.status_code} changed something"
        return answer


def check_answer(status: int, read: Callable[[], Any]) -> None:
    """No 5xx, and every error in OpenAI's shape with a code that docs/api.md lists."""
    assert status < 500, read()
    if status < 400:
        return
    error = read()["error"]
    assert {*_FIELDS} <= set(error) <= {*_FIELDS, "details"}, error
    assert 0 < len(error["message"]) <= MAX_CHARS, error
    assert len(error["param"] or "") <= MAX_CHARS, error
    known, code = CODES.get(status, set()), error["code"]
    assert code in known or ("artifact_*" in known and code.startswith("artifact_")), error


@contextmanager
def running(home: Path, **settings: Any) -> Iterator[Admin]:
    """A server on ``home`` whose background tasks change nothing meanwhile."""
    unlimited = {"changes_per_minute": None, "wrong_tokens_per_minute": None}
    quiet = {"controller_seconds": 60.0, "controller_lease_seconds": 120.0}
    given = {**quiet, **unlimited, **settings}
    service = service_for_tests(home, settings=settings_for_tests(home, **given))
    assert service.remembering is not None
    # How long an unknown answer is waited for.
    service.remembering.every_seconds = 0.0005
    with serving(app_for_tests(service)) as url:
        yield Admin(service, url)


def tensor(rows: int, seed: int = 0) -> bytes:
    values = torch.randn(rows, HIDDEN_SIZE, generator=torch.Generator().manual_seed(seed))
    return save({"prompt": values})


def furnish(admin: Admin) -> None:
    """A prompt with a text, two soft versions and two aliases."""
    versions = f"{admin.url}{V1}/prompts/{PROMPT}/versions"
    for parts in (
        {"data": {"text": "Be brief."}},
        {"files": {"tensor": ("a.safetensors", tensor(2, 1))}},
        {"files": {"tensor": ("b.safetensors", tensor(3, 2))}},
    ):
        assert admin.session.post(versions, **parts).status_code == 201
    for alias, version in (("production", "v1"), ("canary", "v3")):
        answer = admin.session.put(
            f"{admin.url}{V1}/prompts/{PROMPT}/aliases/{alias}", json={"version": version}
        )
        assert answer.status_code == 200, answer.text


def furnished(template: Path, home: Path) -> Path:
    """A copy of a home that was furnished and closed."""
    shutil.copytree(template, home)
    return home

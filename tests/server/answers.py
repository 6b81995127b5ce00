"""What tests of the admin API share: its addresses, and the code of an error."""

from __future__ import annotations

import httpx

V1 = "/softprompts/v1"
VERSIONS = f"{V1}/prompts/support/versions"


def code_of(response: httpx.Response) -> str | None:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["code"]

"""A database and a blob store that do not answer: the serving path waits for neither."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from faults.history import tensor
from faults.line import line_to
from postgres import Postgres
from s3 import S3, in_environment

from softprompt_serve.server.service import Service
from softprompt_serve.testing import (
    ADMIN_TOKEN,
    app_for_tests,
    service_for_tests,
    serving,
    settings_for_tests,
)

PROMPT = "/softprompts/v1/prompts/support"
REQUESTS = 200


class Client:
    """A server in this process, over HTTP."""

    def __init__(self, service: Service, url: str) -> None:
        self.service, self.url = service, url
        self.headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}

    def call(self, method: str, path: str, **request: Any) -> tuple[int, Any]:
        answer = requests.request(
            method, self.url + path, headers=self.headers, timeout=120, **request
        )
        return answer.status_code, answer.json()

    def upload(self, rows: int, seed: int) -> tuple[int, Any]:
        return self.call("POST", f"{PROMPT}/versions", files={"tensor": tensor(rows, seed)})

    def point(self, alias: str, version: str) -> tuple[int, Any]:
        return self.call("PUT", f"{PROMPT}/aliases/{alias}", json={"version": version})

    def serves(self) -> None:
        """Requests are decided, leased and found resident, many times, while nothing answers."""
        for number in range(REQUESTS):
            body = {"sticky_key": str(number)}
            status, found = self.call("POST", f"{PROMPT}/rollout/explain", json=body)
            assert (status, found["version"], found["resident"]) == (200, "v1", True)


@contextmanager
def served(home: Path, **settings: Any) -> Iterator[Client]:
    service = service_for_tests(home, settings=settings_for_tests(home, **settings))
    with serving(app_for_tests(service)) as url:
        client = Client(service, url)
        assert client.upload(2, 1)[0] == 201
        assert client.upload(3, 2)[0] == 201
        assert client.point("production", "v1")[0] == 200
        yield client


def code_of(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


def test_a_database_that_does_not_answer_holds_up_changes_and_no_request(
    tmp_path: Path, postgres: Postgres, postgres_url: str
) -> None:
    with line_to(postgres.port) as line:
        url = postgres_url.replace(f":{postgres.port}/", f":{line.port}/")
        with served(tmp_path, database_url=url) as client:
            with line.held(), ThreadPoolExecutor() as pool:
                change = pool.submit(client.point, "canary", "v2")
                client.serves()
                assert client.call("GET", "/softprompts/v1/readyz")[0] == 200
                assert code_of(change.result()) == (503, "catalogue_unavailable")
            assert client.point("canary", "v2")[0] == 200


@pytest.fixture
def s3() -> Iterator[S3]:
    server = S3()
    server.create("bucket")
    yield server
    server.stop()


def test_a_blob_store_that_does_not_answer_holds_up_uploads_and_no_request(
    tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    with line_to(s3.port) as line, in_environment(s3):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{line.port}")
        with served(tmp_path, blob_url="s3://bucket/prompts") as client:
            with line.held(), ThreadPoolExecutor() as pool:
                upload = pool.submit(client.upload, 4, 9)
                client.serves()
                # What is resident can be pointed at without its blob.
                assert client.point("canary", "v2")[0] == 200
                assert client.call("GET", "/softprompts/v1/readyz")[0] == 200
                assert code_of(upload.result()) == (503, "blob_store_unavailable")
            assert client.upload(4, 9)[0] == 201

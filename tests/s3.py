"""An S3-compatible server for tests, which can be lost and come back with what it held."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store


class S3:
    """Moto's server, in this process; buckets live until :meth:`forget`."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "an-id",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
        }

    def create(self, bucket: str) -> None:
        httpx.put(f"{self.endpoint}/{bucket}").raise_for_status()

    def read(self, bucket: str, key: str) -> bytes:
        return bytes(self._bucket(bucket).get(key).bytes())

    def write(self, bucket: str, key: str, content: bytes) -> None:
        self._bucket(bucket).put(key, content)

    def forget(self) -> None:
        httpx.post(f"{self.endpoint}/moto-api/reset").raise_for_status()

    @contextmanager
    def lost(self) -> Iterator[None]:
        """Connections are refused."""
        self.stop()
        try:
            yield
        finally:
            self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port)
            self._server.start()

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Connections are made, and nothing is ever answered."""
        with self.lost(), socket.create_server(("127.0.0.1", self.port)):
            yield

    def stop(self) -> None:
        self._server.stop()

    def _bucket(self, name: str) -> S3Store:
        return S3Store(
            name,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id="an-id",
            secret_access_key="a-secret",
            client_options={"allow_http": True},
        )


@contextmanager
def in_environment(s3: S3) -> Iterator[None]:
    """This process's environment names the server, and nothing else of AWS."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        yield

"""The proxy's configuration, in a real nginx before a real server of the admin API."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from debian import tool
from deploy.facts import DEPLOY
from e2e.harness import free_port

from softprompt_serve.testing import (
    ADMIN_TOKEN,
    app_for_tests,
    service_for_tests,
    serving,
    settings_for_tests,
)

SITE = DEPLOY / "nginx" / "softprompt.conf"
MAIN = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
    include {site};
}}
"""
SIGNED_ON = "session=ada"
WAIT_SECONDS = 20


class SignOn(http.server.BaseHTTPRequestHandler):
    """As oauth2-proxy answers `/oauth2/auth`."""

    def do_GET(self) -> None:
        self.send_response(202 if self.headers.get("cookie") == SIGNED_ON else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


def certify(folder: Path, name: str, signer: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
    """A certificate and its key as `NAME.pem` and `NAME.key`; without a signer, one that may sign."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    issuer, signs = (subject, key) if signer is None else (signer[0].subject, signer[1])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(signs, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made, key


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a server, and of an administrator whom `clients` has signed for."""
    folder = tmp_path_factory.mktemp("nginx")
    certify(folder, "server")
    certify(folder, "admin", certify(folder, "clients"))
    certify(folder, "stranger", certify(folder, "others"))
    return folder


@contextlib.contextmanager
def signing_on() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SignOn) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def proxy(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of nginx with our site, on ports of this machine."""
    root = tmp_path_factory.mktemp("served")
    service = service_for_tests(root, settings=settings_for_tests(root, caller_access="tokens"))
    port = free_port()
    with serving(app_for_tests(service)) as url, signing_on() as sign_on:
        text = SITE.read_text().replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        text = text.replace("127.0.0.1:8000", url.removeprefix("http://"))
        text = text.replace("127.0.0.1:4180", f"127.0.0.1:{sign_on}")
        text = text.replace("/etc/nginx/tls", str(home))
        (home / "site.conf").write_text(text)
        main = home / "nginx.conf"
        main.write_text(MAIN.format(home=home, site=home / "site.conf"))
        command = [str(tool("nginx", "nginx")), "-e", f"{home}/error.log", "-c", str(main)]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        process = subprocess.Popen(command)
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while not answers(f"https://localhost:{port}", home):
                assert time.monotonic() < deadline, (home / "error.log").read_text()
                time.sleep(0.05)
            yield f"https://localhost:{port}"
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)


def client(url: str, home: Path, certificate: str | None = None) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(home / "server.pem"))
    if certificate is not None:
        context.load_cert_chain(home / f"{certificate}.pem", home / f"{certificate}.key")
    bearer = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    return httpx.Client(base_url=url, verify=context, headers=bearer, trust_env=False, timeout=30)


def answers(url: str, home: Path) -> bool:
    with contextlib.suppress(httpx.TransportError), client(url, home) as plain:
        return plain.get("/").status_code == 404
    return False


def test_the_admin_api_takes_a_certificate_and_a_token(proxy: str, home: Path) -> None:
    path = "/softprompts/v1/prompts"
    with client(proxy, home) as without, client(proxy, home, "admin") as having:
        assert without.get(path).status_code == 403
        assert having.get(path).status_code == 200
        missing = having.get(path, headers={"authorization": ""})
        assert missing.json()["error"]["code"] == "missing_admin_token"


def test_a_certificate_of_somebody_else_is_none(proxy: str, home: Path) -> None:
    with client(proxy, home, "stranger") as other:
        assert other.get("/softprompts/v1/prompts").status_code == 400


def test_people_sign_on_before_they_reach_the_console(proxy: str, home: Path) -> None:
    with client(proxy, home) as browser:
        sent = browser.get("/softprompts/")
        assert sent.status_code == 302
        assert "/oauth2/sign_in?rd=/softprompts/" in sent.headers["location"]
        reached = browser.get("/softprompts/login", headers={"cookie": SIGNED_ON})
        assert (reached.status_code, "Log in" in reached.text) == (200, True)


def test_callers_reach_the_models_and_nothing_beside(proxy: str, home: Path) -> None:
    with client(proxy, home, "admin") as caller:
        refused = caller.get("/v1/models", headers={"authorization": ""})
        assert refused.json()["error"]["code"] == "missing_api_key"
        assert caller.get("/softprompts/v1/readyz").status_code == 200
        for path in ("/metrics", "/openapi.json", "/docs", "/collective_rpc", "/oauth2/auth"):
            assert caller.get(path).status_code == 404, path


def test_no_way_of_writing_a_path_comes_past_the_certificate(proxy: str, home: Path) -> None:
    paths = (
        "/softprompts//v1/prompts",
        "/softprompts/./v1/prompts",
        "/v1/../softprompts/v1/prompts",
        "/softprompts/%76%31/prompts",
        "/v1/%2e%2e/softprompts/v1/prompts",
        "/softprompts/v1/readyz/../prompts",
        "/v1/..%2fsoftprompts/v1/prompts",
        "//softprompts/v1/prompts",
    )
    with client(proxy, home) as stranger:
        for path in paths:
            answer = stranger.get(path, headers={"cookie": SIGNED_ON})
            assert answer.status_code in {302, 400, 403, 404}, (path, answer.status_code)

"""Disks that are full, read-only or damaged under a running server."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from faults.history import tensor
from faults.processes import Nursery, Server

PROMPT = "/prompts/support"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def filled(disk: Path, spare: int) -> Iterator[None]:
    """All but ``spare`` bytes of it are taken."""
    hog = disk / "hog"
    with hog.open("wb") as file:
        status = os.statvfs(disk)
        file.write(bytes(max(0, status.f_bavail * status.f_frsize - spare)))
    try:
        yield
    finally:
        hog.unlink()


def upload(server: Server, rows: int, seed: int, **data: str) -> requests.Response:
    files = {"tensor": ("t.safetensors", tensor(rows, seed))}
    return server.call("POST", f"{PROMPT}/versions", files=files, data=data)


def furnish(server: Server) -> None:
    assert upload(server, 2, 1).status_code == 201
    assert upload(server, 3, 2).status_code == 201
    assert point(server, "production", "v1").status_code == 200


def point(server: Server, alias: str, version: str) -> requests.Response:
    return server.call("PUT", f"{PROMPT}/aliases/{alias}", json={"version": version})


def code_of(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def explain(server: Server, version: str | None = None) -> requests.Response:
    """What a request would be answered by: the serving path's own choice."""
    return server.call("POST", f"{PROMPT}/rollout/explain", json={"version": version})


@as_root
@pytest.mark.parametrize("spare", [0, 1500, 6000, 20_000])
def test_on_a_full_disk_changes_are_refused_and_what_was_there_is_served(
    servers: Nursery, disk: Path, spare: int
) -> None:
    server = servers.server(disk / "home")
    server.start()
    furnish(server)
    kept = sound(server)
    with filled(disk, spare):
        refused = 0
        for number in range(40):
            for answer in (
                upload(server, 40, 100 + number, version=f"f{number}"),
                point(server, "canary", ("v1", "v2")[number % 2]),
            ):
                if answer.status_code == 503:
                    assert code_of(answer)[1] in {"catalogue_unavailable", "blob_store_unavailable"}
                    refused += 1
                else:
                    assert answer.status_code in {200, 201}, answer.text
        assert refused > 20
        assert explain(server).json()["version"] == "v1"
        assert server.call("GET", "/readyz").status_code == 200
    # Room again: changes are made again, and a restart finds what was acknowledged.
    assert upload(server, 5, 77, version="after").status_code == 201
    assert point(server, "canary", "after").status_code == 200
    shown = sound(server)
    assert shown["versions"].items() >= kept["versions"].items()
    server.kill()
    server.start()
    assert sound(server) == shown
    server.stop()


def sound(server: Server) -> dict[str, dict[str, str]]:
    """Versions and aliases; each version's bytes are there and have its digest."""
    found = server.call("GET", PROMPT).json()
    versions = {}
    for version in found["versions"]:
        bundle = f"{PROMPT}/versions/{version['version']}/bundle"
        assert server.call("GET", bundle).status_code == 200
        versions[version["version"]] = version["digest"]
    return {"versions": versions, "aliases": found["aliases"]}


def test_a_blob_that_may_not_be_written_whole_leaves_nothing(
    servers: Nursery, tmp_path: Path
) -> None:
    # As a quota would: no file of this process grows beyond 512 KiB (RLIMIT_FSIZE).
    server = servers.server(tmp_path / "home", file_bytes=512 * 1024, max_text_chars=1_000_000)
    server.start()
    furnish(server)
    blobs = tmp_path / "home" / "blobs"
    before = sorted(blobs.rglob("*"))
    answer = server.call("POST", f"{PROMPT}/versions", data={"text": "x" * 600_000})
    assert code_of(answer) == (503, "blob_store_unavailable")
    assert [path for path in sorted(blobs.rglob("*")) if path.is_file()] == [
        path for path in before if path.is_file()
    ]
    assert upload(server, 4, 4).status_code == 201
    server.stop()


@as_root
def test_blobs_on_a_disk_that_turned_read_only_are_read_and_not_written(
    servers: Nursery, disk: Path, tmp_path: Path
) -> None:
    server = servers.server(tmp_path / "home", blob_url=f"file://{disk}/blobs")
    server.start()
    furnish(server)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert code_of(upload(server, 2, 9)) == (503, "blob_store_unavailable")
    assert upload(server, 2, 1).status_code == 200  # that content is there
    assert point(server, "canary", "v2").status_code == 200  # the catalogue is elsewhere
    assert explain(server).json()["version"] == "v1"
    server.kill()
    server.start()
    assert explain(server, "canary").json()["version"] == "v2"
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert upload(server, 2, 9).status_code == 201
    server.stop()


def damage(blob: Path, chance: random.Random, how: str) -> None:
    data = bytearray(blob.read_bytes())
    match how:
        case "bit":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "cut":
            del data[chance.randrange(len(data)) :]
        case "longer":
            data += b"\0"
        case "zeros":
            data[:] = bytes(len(data))
    blob.write_bytes(data)


@pytest.mark.parametrize("how", ["bit", "cut", "longer", "zeros", "gone"])
def test_a_damaged_blob_is_never_loaded_and_named_while_others_are_served(
    servers: Nursery,
    tmp_path: Path,
    luck: Any,
    how: str,
) -> None:
    server = servers.server(tmp_path / "home")
    server.start()
    furnish(server)
    assert point(server, "canary", "v2").status_code == 200
    digest = server.call("GET", f"{PROMPT}/versions/v1").json()["digest"]
    blob = tmp_path / "home" / "blobs" / digest[:2] / digest
    sound = blob.read_bytes()
    code = "blob_missing" if how == "gone" else "blob_corrupt"
    for _ in luck.rounds(1) if how in {"bit", "cut"} else range(1):
        server.kill()
        if how == "gone":
            blob.unlink()
        else:
            damage(blob, luck.chance, how)
        server.start(ready=False)
        ready = server.call("GET", "/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["production"] == "not resident: support@v1"
        shown = server.call("GET", f"{PROMPT}/versions/v1").json()
        assert (shown["state"], digest[:12] in shown["reason"]) == ("stored", True)
        resident = server.call("GET", "/residency").json()["workers"][0]["resident"]
        assert digest not in resident
        for answer in (
            server.call("PUT", f"{PROMPT}/versions/v1/residency", json={"resident": True}),
            point(server, "other", "v1"),
            server.call("GET", f"{PROMPT}/versions/v1/bundle"),
        ):
            assert code_of(answer) == (503, code)
        other = explain(server, "canary").json()
        assert (other["version"], other["resident"]) == ("v2", True)
        # The same content sent again mends it, without a restart.
        assert upload(server, 2, 1).status_code == 200
        assert blob.read_bytes() == sound
        assert server.call("GET", "/readyz").status_code == 200
    server.stop()

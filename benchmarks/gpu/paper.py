"""What a version should cost on a GPU, from bandwidths alone. Pure, and no measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

KIB = 1024
LAUNCH_SECONDS = 5e-6


@dataclass(frozen=True, slots=True)
class Assumed:
    """What the estimates stand on.

    Attributes:
        hbm: bytes per second that the device's memory moves, reads and writes together.
        pcie: bytes per second from pinned host memory to the device.
        host: bytes per second at which the host deserialises and hashes what a client sent.
        launch: seconds until a kernel or a copy has begun.
    """

    hbm: float
    pcie: float
    host: float
    launch: float = LAUNCH_SECONDS


@dataclass(frozen=True, slots=True)
class Case:
    """A version ``[rows, hidden]`` and the visible tokens that come after it."""

    hidden: int
    rows: int
    visible: int
    itemsize: int = 2


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one version or one request of it.

    Attributes:
        resident_bytes: what the version takes of the device's memory.
        load_seconds: from the host tier into the slab.
        copy_seconds: a device copy of the rows into the input embeddings.
        overlay_seconds: the kernel that writes them there, as it reads and writes each row once.
        native_host_seconds: embeddings that a client sends, of virtual and visible tokens alike,
            are deserialised and hashed before the engine has them.
        native_device_seconds: they are copied to the device and written by the same kernel.
    """

    resident_bytes: int
    load_seconds: float
    copy_seconds: float
    overlay_seconds: float
    native_host_seconds: float
    native_device_seconds: float


def resident_bytes(case: Case) -> int:
    """Rows times hidden size times itemsize; the slab has no gaps within a version."""
    return case.rows * case.hidden * case.itemsize


def estimate(case: Case, given: Assumed) -> Costs:
    """Bytes over bandwidth, and a launch for each step on the device."""
    bytes_, sent = resident_bytes(case), (case.rows + case.visible) * case.hidden * case.itemsize
    moved = given.launch + 2 * bytes_ / given.hbm
    return Costs(
        resident_bytes=bytes_,
        load_seconds=given.launch + bytes_ / given.pcie,
        copy_seconds=moved,
        overlay_seconds=moved,
        native_host_seconds=sent / given.host,
        native_device_seconds=2 * given.launch + sent / given.pcie + 2 * sent / given.hbm,
    )


def table(costs: Iterable[tuple[Case, Costs]]) -> str:
    """Markdown: a row for each case."""
    lines = [
        (
            "| hidden size | virtual tokens | HBM, KiB a version | load, µs | device copy, µs | overlay, "
            "µs | native embeds, host, µs | device, µs |"
        ),
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {case.hidden} | {case.rows} | {cost.resident_bytes / KIB:.1f} | {_us(cost.load_seconds)} "
        f"| {_us(cost.copy_seconds)} | {_us(cost.overlay_seconds)} "
        f"| {_us(cost.native_host_seconds)} | {_us(cost.native_device_seconds)} |"
        for case, cost in costs
    ]
    return "\n".join(lines)


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.1f}"

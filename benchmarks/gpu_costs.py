"""What does a resident version cost on a GPU? Memory, a load, the overlay; beside native embeddings.

On a machine with a CUDA device the bank's slab, a reload from the host tier and vLLM's own overlay
kernel are measured, the last beside a plain device copy of the same rows and beside what embeddings
that a client sends would cost (deserialised, hashed and copied for virtual and visible tokens alike).
Each is shown beside its estimate on paper. Without a device it says so and ends with status 2;
`--paper` prints the estimates alone, which are bytes over the bandwidths given and nothing more.

    python benchmarks/gpu_costs.py              # where there is a GPU
    python benchmarks/gpu_costs.py --paper      # anywhere
"""

from __future__ import annotations

import argparse
import sys

import torch
from gpu.paper import Assumed, Case, estimate, table
from side_by_side import machine

NO_DEVICE = 2
GB = 1e9


def cases(options: argparse.Namespace) -> list[Case]:
    """Each hidden size with each number of virtual tokens."""
    return [
        Case(hidden, rows, options.visible) for hidden in options.hidden for rows in options.rows
    ]


def assumed(options: argparse.Namespace) -> Assumed:
    """The named inputs, in bytes per second."""
    return Assumed(options.hbm_gb_s * GB, options.pcie_gb_s * GB, options.host_gb_s * GB)


def on_paper(options: argparse.Namespace) -> str:
    """Markdown: the estimates, and what they stand on."""
    given = assumed(options)
    head = (
        f"On paper, not measured: bfloat16, {options.visible} visible tokens, HBM "
        f"{options.hbm_gb_s:g} GB/s, PCIe {options.pcie_gb_s:g} GB/s, host {options.host_gb_s:g} GB/s "
        f"for deserialising and hashing, {1e6 * given.launch:g} µs a launch.\n"
    )
    return f"{head}\n{table((case, estimate(case, given)) for case in cases(options))}"


def measured(options: argparse.Namespace) -> str:
    """Markdown: what this machine's device takes; it needs one, and vLLM's build for CUDA."""
    from gpu.measure import measure

    device = torch.device("cuda")
    found = []
    for case in cases(options):
        found.append((case, measure(case, device, options.versions)))
        print(f"  hidden {case.hidden}, {case.rows} rows", file=sys.stderr, flush=True)
    name = torch.cuda.get_device_name(device)
    head = (
        f"Measured on {name}: bfloat16, {options.visible} visible tokens, {options.versions} versions "
        "resident. A load is from the host tier, checked and waited for.\n"
    )
    return f"{head}\n{table(found)}"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--paper", action="store_true", help="estimates alone, without a device")
    parser.add_argument("--hidden", type=int, nargs="+", default=[576, 4096, 8192])
    parser.add_argument("--rows", type=int, nargs="+", default=[20, 100, 256])
    parser.add_argument("--visible", type=int, default=512, help="visible tokens of a request")
    parser.add_argument("--versions", type=int, default=100, help="resident, where measured")
    parser.add_argument("--hbm-gb-s", type=float, default=3350.0, help="H100 SXM: 3350")
    parser.add_argument("--pcie-gb-s", type=float, default=50.0, help="Gen5 x16, pinned: about 50")
    parser.add_argument("--host-gb-s", type=float, default=1.0, help="one core's SHA-256: about 1")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Print Markdown; 2 without a device."""
    options = arguments(given)
    if options.paper:
        print(on_paper(options))
        return 0
    if not torch.cuda.is_available():
        print(
            "torch sees no CUDA device here, so nothing was measured; --paper prints estimates.",
            file=sys.stderr,
        )
        return NO_DEVICE
    print(f"{measured(options)}\n\n{on_paper(options)}\n\n{machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

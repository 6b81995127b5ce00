"""``python -m dashboards`` writes ``json/``; ``--check`` only says whether it is current."""

from __future__ import annotations

import argparse
import sys

from dashboards.write import stale, write


def main() -> int:
    """Write or check; 1 if a file is not current."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if not current")
    if not parser.parse_args().check:
        sys.stdout.writelines(f"wrote {path.name}\n" for path in write())
        return 0
    old = stale()
    sys.stderr.writelines(f"{path.name} is not current: run this without --check\n" for path in old)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())

"""Write the rules of deploy/prometheus as a PrometheusRule for Kubernetes; ``--check`` only compares.

The files under deploy/prometheus/rules are what is edited and tested. The Prometheus Operator wants the
same groups in an object of its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

ROOT: Final = Path(__file__).resolve().parent.parent
RULES: Final = ROOT / "deploy" / "prometheus" / "rules"
WRITTEN: Final = (
    ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"
)
HEAD: Final = "# Written by scripts/prometheus_rule.py from deploy/prometheus/rules; don't edit.\n"


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Keeps expressions of several lines readable."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", value, style="|" if "\n" in value else None
    )


_Dumper.add_representer(str, _text)


def rule() -> dict[str, Any]:
    """The object, with the groups of all files in the order of their names."""
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yaml"))]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "softprompt-serve", "namespace": "softprompt"},
        "spec": {"groups": [group for file in files for group in file["groups"]]},
    }


def text() -> str:
    """The file's text."""
    return HEAD + str(yaml.dump(rule(), Dumper=_Dumper, sort_keys=False, width=100))


def current() -> bool:
    """Whether what is written is what the rules are."""
    return WRITTEN.is_file() and WRITTEN.read_text() == text()


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if it isn't current")
    if not parser.parse_args().check:
        WRITTEN.write_text(text())
    elif not current():
        print(f"{WRITTEN.relative_to(ROOT)} is not what the rules are: run {sys.argv[0]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

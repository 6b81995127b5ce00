"""Verdicts: what judging a version came to, for programs and for people. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast

from softprompt_serve.artifact.content import LEARNED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.artifact.content import Kind

State = Literal["alive", "unloaded", "removed"]
Number = float | int | str

_DIGITS: Final = 6
_SHORT: Final = 12


@dataclass(frozen=True, slots=True)
class Subject:
    """A version as far as a judgement needs to know it.

    Attributes:
        name: its name within its prompt, such as ``v2``.
        kind: ``soft``, ``prefix``, ``hard`` or ``base``.
        digest: SHA-256 (hex) of its content; scores count for this content alone.
        state: whether it can answer.
    """

    name: str
    kind: Kind
    digest: str
    state: State = "alive"

    @property
    def learned(self) -> bool:
        """Whether it is a tensor, which nobody can read."""
        return self.kind in LEARNED

    @classmethod
    def of(cls, name: str, kind: str, digest: str, *, loaded: bool) -> Self:
        """A version that is not removed; ``loaded`` is whether it is wanted to answer."""
        return cls(name, cast("Kind", kind), digest, "alive" if loaded else "unloaded")


@dataclass(frozen=True, slots=True)
class Gate:
    """One demand, and what was found.

    Attributes:
        name: stable for a policy, such as ``win exact_match on support-test``.
        passed: whether it is met.
        found: what the evidence says, in words.
        wanted: what the policy asks, in words.
        hint: what would satisfy it; empty if it passed.
        numbers: the same for programs; what is unknown is absent.
    """

    name: str
    passed: bool
    found: str
    wanted: str
    hint: str = ""
    numbers: Mapping[str, Number] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(
        cls,
        name: str,
        found: str,
        wanted: str,
        hint: str,
        numbers: Mapping[str, Number] = MappingProxyType({}),
    ) -> Self:
        """A gate that passed if nothing is left to do."""
        return cls(name, not hint, found, wanted, hint, numbers)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every gate of a policy for one version.

    Attributes:
        candidate: whom it is about.
        baseline: what it was compared with; None if there is no such version.
        gates: all of them, passed and failed.
        warnings: what a person should know and no gate asks.
    """

    candidate: Subject
    baseline: Subject | None
    gates: tuple[Gate, ...]
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether there are gates and all of them passed."""
        return bool(self.gates) and all(gate.passed for gate in self.gates)

    @property
    def failed(self) -> tuple[Gate, ...]:
        """The gates that did not pass."""
        return tuple(gate for gate in self.gates if not gate.passed)


def to_json(verdict: Verdict) -> dict[str, Any]:
    """Plain JSON data: ``passed``, ``candidate``, ``baseline``, ``gates`` and ``warnings``.

    Subjects are ``{version, kind, digest, state}``; gates have the fields of :class:`Gate`, floats
    with six significant digits.
    """
    return {
        "passed": verdict.passed,
        "candidate": _subject(verdict.candidate),
        "baseline": None if verdict.baseline is None else _subject(verdict.baseline),
        "gates": [
            {
                "name": gate.name,
                "passed": gate.passed,
                "found": gate.found,
                "wanted": gate.wanted,
                "hint": gate.hint,
                "numbers": {name: _rounded(value) for name, value in gate.numbers.items()},
            }
            for gate in verdict.gates
        ],
        "warnings": list(verdict.warnings),
    }


def to_text(verdict: Verdict) -> str:
    """Lines for a terminal: the outcome, each gate with what would satisfy it, the warnings."""
    failed = len(verdict.failed)
    outcome = "passes every gate" if verdict.passed else f"fails {failed} of {len(verdict.gates)}"
    lines = [f"{verdict.candidate.name} {outcome}"]
    for gate in verdict.gates:
        lines += [f"{'pass' if gate.passed else 'FAIL'}  {gate.name}", f"      found: {gate.found}"]
        if not gate.passed:
            lines += [f"      wanted: {gate.wanted}", f"      to do: {gate.hint}"]
    lines += [f"warning: {warning}" for warning in verdict.warnings]
    return "\n".join(lines)


def short(digest: str) -> str:
    """The first digits of a digest or fingerprint, for people."""
    return digest[:_SHORT]


def _subject(subject: Subject) -> dict[str, str]:
    return {
        "version": subject.name,
        "kind": subject.kind,
        "digest": subject.digest,
        "state": subject.state,
    }


def _rounded(value: Number) -> Number:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value

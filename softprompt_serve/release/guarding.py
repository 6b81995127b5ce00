"""Of whom a policy asks anything: which policy a prompt has, and which moves it guards. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softprompt_serve.release.policy import BASELINE, Policy

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from softprompt_serve.release.verdict import Subject


def default_policy(versions: Sequence[Subject], aliases: Mapping[str, str]) -> Policy | None:
    """What a prompt without a policy asks: None if it has no learned version.

    The baseline is the alias ``baseline`` if there is one, else the newest hard version that is
    alive. Something must be won against it on at least 50 items, nothing lost, and no protected
    cohort hurt that the evidence has or the server declares. Where there is no hard version, the
    baseline is an alias that does not exist, so that nothing passes.

    Args:
        versions: the prompt's versions that are not removed, in the order of their making.
        aliases: alias → version.
    """
    if not any(version.learned for version in versions):
        return None
    if BASELINE in aliases:
        return Policy(baseline=BASELINE)
    hard = [one.name for one in versions if one.kind == "hard" and one.state == "alive"]
    return Policy(baseline=hard[-1] if hard else BASELINE)


def asks(
    policy: Policy,
    alias: str,
    candidate: Subject,
    *,
    baseline: Subject | None,
    held: Collection[str] = (),
    rollback: bool = False,
) -> bool:
    """Whether moving an alias to a version needs a verdict.

    Going back is never asked for evidence: neither a rollback, nor the baseline, nor a version that
    can be read and that the alias has had before. A learned version that comes again is asked like any
    other, since what it earned was on other evidence.

    Args:
        policy: the prompt's.
        alias: what is moved.
        candidate: to whom.
        baseline: what ``policy.baseline`` stands for.
        held: versions that the alias has had.
        rollback: whether this undoes the move before.
    """
    if rollback or alias not in policy.guarded or candidate.kind not in policy.kinds:
        return False
    if candidate.learned:
        return True
    known = {*held, *(() if baseline is None else (baseline.name,))}
    return candidate.name not in known

"""Whether a learned version still leads its baseline by enough to be worth keeping. Pure.

A lead is closed if the upper end of its interval is below a margin that makes no difference in
practice: so that it is small must be shown, as in a test of equivalence (Schuirmann 1987, "A
comparison of the two one-sided tests procedure and the power approach", Journal of Pharmacokinetics
and Biopharmaceutics 15), and few items show nothing. A version is no longer needed if *all* its
leads are closed, which needs no correction for their number (Berger 1982).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.release.case import Index
from softprompt_serve.release.evidence_pick import compare_pairs
from softprompt_serve.release.pairs import pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from softprompt_serve.release.evidence import Run
    from softprompt_serve.release.paired import Comparison
    from softprompt_serve.release.policy import Policy


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much a version leads the baseline.

    Attributes:
        dataset, evaluator: where.
        found: version minus baseline.
        below: the margin that makes no difference.
    """

    dataset: str
    evaluator: str
    found: Comparison
    below: float

    @property
    def closed(self) -> bool:
        """Whether it is certainly below the margin."""
        return self.found.high < self.below


def leads_of(policy: Policy, runs: Sequence[Run], version: str, baseline: str) -> tuple[Lead, ...]:
    """The leads that say whether a version is needed.

    Those that the policy asks it to win, where any of them was measured; else all that were. None
    where the policy never lets a version go.

    Args:
        policy: the prompt's.
        runs: that have both versions, of one data set each.
        version: whose leads.
        baseline: over whom.
    """
    below = policy.watch.retire_below
    if below is None:
        return ()
    asked = {(win.evaluator, win.dataset) for win in policy.win}
    index, found = Index(), []
    for run in runs:
        for evaluator in run.evaluators:
            pairs = pair(index, run, evaluator, version, baseline)
            if pairs.items and policy.watch.counts(run.dataset):
                comparison = compare_pairs(pairs, policy.watch.confidence, 0.0)
                found.append(Lead(run.dataset, evaluator, comparison, below))
    named = tuple(lead for lead in found if (lead.evaluator, lead.dataset) in asked)
    return named or tuple(found)


def unneeded(leads: Sequence[Lead]) -> bool:
    """Whether all leads are closed; without any, nothing is known."""
    return bool(leads) and all(lead.closed for lead in leads)

"""Evaluators: what finds out whether an answer is good, and the names by which they are asked for."""

from softprompt_serve.evaluation.evaluators.named import Options, evaluator_of, evaluators_of
from softprompt_serve.evaluation.evaluators.verdict import Evaluator, NoVerdict, Verdict

__all__ = ["Evaluator", "NoVerdict", "Options", "Verdict", "evaluator_of", "evaluators_of"]

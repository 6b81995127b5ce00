"""What other harnesses found, as evidence: lm-eval's results, Inspect's logs."""

from softprompt_serve.evaluation.imports.inspect_log import read_inspect
from softprompt_serve.evaluation.imports.lm_eval import read_lm_eval

__all__ = ["read_inspect", "read_lm_eval"]

"""A version's content: load it, check it, name it by its digest.

Importing this package imports neither torch nor vLLM; only loading a tensor needs torch.
"""

from softprompt_serve.artifact.checks import KvShape, Limits
from softprompt_serve.artifact.content import Content, content_from_parts, digest_of
from softprompt_serve.artifact.load import (
    Artifact,
    base,
    hard,
    learned_from_bytes,
    learned_from_path,
)

__all__ = [
    "Artifact",
    "Content",
    "KvShape",
    "Limits",
    "base",
    "content_from_parts",
    "digest_of",
    "hard",
    "learned_from_bytes",
    "learned_from_path",
]

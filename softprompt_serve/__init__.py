"""softprompt-serve: versioned soft prompts, served by vLLM as releases."""

__version__ = "0.1.0"

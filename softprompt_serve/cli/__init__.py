"""``softprompt-serve``: start a server, and manage prompts through a running server's API."""

from softprompt_serve.cli.app import app, main

__all__ = ["app", "main"]

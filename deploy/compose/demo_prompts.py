"""Import the demo's prompts into the server of compose.yaml; what is there stays."""  # noqa: INP001 - run by path

from rich.console import Console

from softprompt_serve.cli.client import Api
from softprompt_serve.cli.session import settings_for
from softprompt_serve.demo.seed import seed

console = Console(markup=False, emoji=False, highlight=False)
settings, url, token = settings_for(None, None)
with Api(url, token, drain_seconds=settings.drain_seconds) as api:
    added = seed(api, console)
console.print(f"imported: {', '.join(added) or 'nothing new'}")

"""A process that logs as a server of ours does: started by `serve`, up to vLLM's own command.

In its place stands one that writes a line of each kind, serves three requests with uvicorn and our
middleware, and starts a child as vLLM starts its engine. Run by `test_log_processes.py`.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import sys
import warnings
from argparse import Namespace
from typing import Any

import httpx
import uvicorn
from router.catalogues import version
from starlette.types import Receive, Scope, Send
from vllm.config.logging import LoggingConfig
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.logger import configure_logging
from vllm.utils.system_utils import decorate_logs

from softprompt_serve.router.choose import Decision
from softprompt_serve.server.scope import ScopeMiddleware, current
from softprompt_serve.settings import load_settings
from softprompt_serve.telemetry import request_log
from softprompt_serve.telemetry.channel import Events
from softprompt_serve.vllm_plugin import launch, logs

ours = logging.getLogger("softprompt_serve.somewhere")
vllms = logging.getLogger("vllm.somewhere")

TOKEN = "an-admin-token-of-32-characters-"


def fail() -> None:
    raise RuntimeError(TOKEN)


def write() -> None:
    ours.debug("ours at debug")
    ours.info("ours at info")
    vllms.info("vLLM's at info,\nin two lines")
    logging.getLogger("torch").warning("torch's warning")
    logging.getLogger("transformers").warning("a warning of transformers")
    logging.getLogger("third.party").warning("somebody's warning")
    logging.getLogger("third.party").info("somebody's info")
    warnings.warn("Python's warning", stacklevel=1)
    ours.warning("the token is %s", TOKEN)
    try:
        fail()
    except RuntimeError:
        vllms.exception("vLLM's failure")


async def handle(scope: Scope, receive: Receive, send: Send) -> None:
    state, name = current(), scope["path"].rpartition("/")[2]
    if name != "nothing":
        state.decision = Decision(version(name), "split", name, 3)
        state.record.entered(f"chatcmpl-{name}", 25, 20)
    await asyncio.sleep(0.2)  # the other one is under way, too
    vllms.info("within %s", name)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def serve(parsed: Namespace) -> None:
    events = Events()
    request_log.listen_to(events)
    config = uvicorn.Config(
        ScopeMiddleware(handle, lambda: events),
        port=0,
        lifespan="off",
        log_level=parsed.uvicorn_log_level,
        access_log=not parsed.disable_uvicorn_access_log,
        **_given(log_config=get_uvicorn_log_config(parsed)),
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event of it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await asyncio.gather(*(client.get(f"/v1/{name}") for name in ("v2", "v3", "nothing")))
    server.should_exit = True
    await serving


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def engine(config: LoggingConfig) -> None:
    """As `EngineCoreProc.run_engine_core` begins, and then loads plugins."""
    configure_logging(config)
    decorate_logs()
    logs.settle()
    ours.info("ours in the engine")
    vllms.info("vLLM's in the engine")


def command(args: Namespace) -> None:
    logs.attend(load_settings(), args)
    write()
    asyncio.run(serve(args))
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=engine, args=(args.logging_config,), name="EngineCore")
    child.start()
    child.join()


if __name__ == "__main__":
    ServeSubcommand.cmd = staticmethod(command)
    launch.serve(sys.argv[1:])

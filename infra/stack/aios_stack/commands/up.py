"""`aios up`: starts everything and shows what it is waiting for."""

import asyncio
import time
from pathlib import Path

import click
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from aios_proto.errors import InvalidRequest
from aios_stack.commands.options import data_option
from aios_stack.data_folder import DataFolder, StackState
from aios_stack.detached import start_detached, why_not
from aios_stack.topology import StackOptions


@click.command()
@data_option
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C, which stops everything.")
@click.option("--workers", type=int, default=1, show_default=True, help="LLM workers.")
@click.option("--model", help="A .gguf file or a hub name; default is the small model of the engine.")
@click.option("--engine-url", help="Use this endpoint and start no engine.")
@click.option(
    "--engine-kind",
    type=click.Choice(["tgi", "openai", "instant"]),
    default="tgi",
    show_default=True,
    help="API of the engine; `openai` is that of vLLM, SGLang, llama.cpp and Ollama.",
)
@click.option("--only-bus", is_flag=True, help="Only the bus, access and the span store.")
@click.option("--tls", is_flag=True, help="TLS on the bus, with a certificate for every client (mTLS).")
@click.option("--tenant", default="default", show_default=True, help="Tenant of the operator of a new folder.")
@click.option(
    "--forward-spans",
    envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
    show_envvar=True,
    help="OTLP/HTTP receiver, such as Jaeger's, that gets a copy of all spans.",
)
def up(
    data: Path | None,
    foreground: bool,
    workers: int,
    model: str | None,
    engine_url: str | None,
    engine_kind: str,
    only_bus: bool,
    tls: bool,
    tenant: str,
    forward_spans: str | None,
) -> None:
    """Start the bus, the engine and all services on this machine."""
    folder = DataFolder.find(data)
    try:
        options = StackOptions.model_validate(
            {
                "tenant": tenant,
                "workers": workers,
                "model": _absolute(model),
                "engine_url": engine_url,
                "engine_kind": engine_kind,
                "only_bus": only_bus,
                "tls": tls,
                "forward_spans": forward_spans,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequest(first["msg"], field=".".join(str(part) for part in first["loc"]) or None) from error
    console = Console(stderr=True)
    if folder.is_running():
        state = folder.read_state()
        if state is not None and state.ready:
            console.print(_welcome(state, folder, "is up already"), highlight=False)
            return
    begun = time.monotonic()
    with _Progress(console) as progress:

        def show(state: StackState) -> None:
            if not progress.done:
                progress.show(state)
                if state.ready:
                    took = f"is up after {time.monotonic() - begun:.1f} s"
                    progress.finish(_welcome(state, folder, took))

        if foreground:
            from aios_stack.stack import run_stack  # takes a quarter of a second that no other command has to wait

            if not asyncio.run(run_stack(options, folder, show)):
                raise why_not(folder, folder.read_state())
        else:
            start_detached(options, folder, show)


class _Progress:
    """A spinner with what is still to come in a terminal; a line for each change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._last = ""
        self.done = False

    def __enter__(self) -> "_Progress":
        if self._console.is_terminal:
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, state: StackState) -> None:
        text = state.summary
        if text == self._last or state.ready:
            return
        self._last = text
        if self._status is not None:
            self._status.update(escape(text))
        else:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def finish(self, text: str) -> None:
        self.done = True
        if self._status is not None:
            self._status.stop()
        self._console.print(text, highlight=False)


def _welcome(state: StackState, folder: DataFolder, how: str) -> str:
    lines = [
        f"[bold green]AIOS {how}[/]; data in {escape(str(folder.path))}",
        f"  bus     {state.url}{' (TLS)' if state.agent_certificate is not None else ''}",
        *([f"  engine  {escape(state.engine_url)}"] if state.engine_url is not None else []),
        "  next    aios run AGENT.py, aios ps, aios trace --last, aios down",
    ]
    return "\n".join(lines)


def _absolute(model: str | None) -> str | None:
    """A path is meant from here, also for a supervisor that lives elsewhere later."""
    if model is not None and Path(model).expanduser().is_file():
        return str(Path(model).expanduser().resolve())
    return model

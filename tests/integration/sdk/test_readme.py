"""Every Python block of the SDK's README runs as it stands."""

import asyncio
import re
from pathlib import Path

import pytest
from support.scripted_kernel import ScriptedCall, ScriptedKernel

from aios_proto.errors import SyscallCancelled

README = Path(__file__).resolve().parents[3] / "sdk" / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture
def helpful_kernel(kernel: ScriptedKernel) -> ScriptedKernel:
    """Answers everything the README asks."""
    hanging: dict[str, ScriptedCall] = {}

    async def chat(call: ScriptedCall) -> None:
        if call.body["messages"][-1]["content"].startswith("Count"):
            hanging[call.headers.id] = call
            await call.accepted()
        else:
            await call.stream("Rayleigh ", "scattering.")

    async def cancel(call: ScriptedCall) -> None:
        await call.done({"id": call.body["id"], "state": "running"})
        await hanging[call.body["id"]].error(SyscallCancelled("cancelled by its owner"))

    async def attach(call: ScriptedCall) -> None:
        await call.delta(0, "Once upon a time", call_id=call.body["id"])
        await call.chat_done("Once upon a time.", call_id=call.body["id"])

    kernel.handlers |= {"llm.chat": chat, "syscall.cancel": cancel, "syscall.attach": attach}
    model = {"model": "m1", "pool": "default", "workers": 1, "max_input_tokens": 9, "max_total_tokens": 9}
    kernel.handlers["llm.models"] = lambda call: call.done({"models": [model]})
    kernel.handlers["access.whoami"] = lambda call: call.done({"tenant": "acme", "agent": "alice", "group": "agent"})
    kernel.handlers["syscall.list"] = lambda call: call.done({"calls": []})
    kernel.handlers["scheduler.state"] = lambda call: call.done({"queued": 0})
    return kernel


@pytest.mark.parametrize("number", range(len(BLOCKS)))
@pytest.mark.usefixtures("helpful_kernel")
async def test_a_block_of_the_readme_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = compile(BLOCKS[number], f"{README}, block {number + 1}", "exec")
    await asyncio.to_thread(exec, code, {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert "Rayleigh scattering." in printed or "cancelled" in printed or "Once upon" in printed or "acme" in printed


def test_the_readme_has_blocks() -> None:
    assert len(BLOCKS) >= 7

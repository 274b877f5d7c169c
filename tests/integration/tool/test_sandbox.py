"""Code that nobody trusts: what it tries, and that it is held."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sandbox_corpus import ABUSES, ESCAPES

from aios_proto.errors import AiosError, ToolFailed, ToolLimitExceeded
from aios_tool.adapters.builtins.python import answer_of
from aios_tool.adapters.sandbox.bounds import Bounds
from aios_tool.adapters.sandbox.bubblewrap import Bubblewrap
from aios_tool.adapters.sandbox.rlimits import Rlimits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

BOUNDS = Bounds(cpu_s=2, wall_s=15, output_bytes=1 << 16, memory_bytes=128 << 20)
ABUSE_BOUNDS = Bounds(cpu_s=1, wall_s=4, output_bytes=1 << 16, memory_bytes=128 << 20)


@pytest.fixture(scope="module")
def bubblewrap() -> Bubblewrap:
    sandbox = Bubblewrap()
    if not asyncio.run(sandbox.works()):
        pytest.skip("bubblewrap is not installed, or may not make namespaces here")
    return sandbox


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """Things of the host that the code must not reach."""
    folder = tmp_path_factory.mktemp("host")
    secret = folder / "secret"
    secret.write_text("planted")
    secret.chmod(0o644)
    os.environ["AIOS_TEST_SECRET"] = "planted"
    path = f"/tmp/aios-{os.getpid()}.sock"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(path)
        abstract.bind("\0aios-sandbox-test")
        for listening in (tcp, unix, abstract):
            listening.listen()
        yield {"secret_file": secret, "port": tcp.getsockname()[1], "pid": os.getpid(), "socket": path}
    Path(path).unlink()
    del os.environ["AIOS_TEST_SECRET"]


def filled(code: str, host: dict[str, object]) -> str:
    for name, value in host.items():
        code = code.replace("{" + name + "}", str(value))
    return code


@pytest.mark.parametrize("name", ESCAPES)
async def test_an_escape_is_held(bubblewrap: Bubblewrap, host: dict[str, object], name: str) -> None:
    ran = await bubblewrap.run(filled(ESCAPES[name], host), BOUNDS)
    assert "ESCAPED" not in ran.stdout
    assert "planted" not in ran.stdout
    assert "held" in ran.stdout or ran.exit_code, ran


@pytest.mark.parametrize("name", ABUSES)
async def test_an_abuse_ends_in_a_typed_error(bubblewrap: Bubblewrap, name: str) -> None:
    ran = await bubblewrap.run(ABUSES[name], ABUSE_BOUNDS)
    with pytest.raises((ToolFailed, ToolLimitExceeded)) as caught:
        answer_of(ran, ABUSE_BOUNDS)
    assert isinstance(caught.value, AiosError)
    assert len(caught.value.message) < 4000


async def test_honest_code_gets_its_answer(bubblewrap: Bubblewrap) -> None:
    code = "import math\nopen('note', 'w').write('kept')\nprint([math.factorial(20), open('note').read()])"
    ran = await bubblewrap.run(code, BOUNDS)
    assert ran.stdout == "[2432902008176640000, 'kept']\n"
    again = await bubblewrap.run("import os\nprint(os.listdir())", BOUNDS)
    assert again.stdout == "['main.py']\n"


async def test_a_cancelled_run_leaves_no_process_behind(bubblewrap: Bubblewrap) -> None:
    running = asyncio.create_task(bubblewrap.run("import time\ntime.sleep(3601)", Bounds(wall_s=60)))
    before = children()
    async with asyncio.timeout(15):
        while children() <= before:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert children() == before


def children() -> int:
    return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize("name", ["fork-bomb", "memory", "endless-output", "endless-loop", "disk-one-file"])
async def test_the_weaker_sandbox_holds_abuses_too(name: str) -> None:
    ran = await Rlimits().run(ABUSES[name], ABUSE_BOUNDS)
    with pytest.raises((ToolFailed, ToolLimitExceeded)):
        answer_of(ran, ABUSE_BOUNDS)


@pytest.mark.parametrize("name", ["network-tcp-out", "network-host-loopback", "environment-secret", "become-root"])
async def test_the_weaker_sandbox_holds_what_it_says(host: dict[str, object], name: str) -> None:
    ran = await Rlimits().run(filled(ESCAPES[name], host), BOUNDS)
    assert "ESCAPED" not in ran.stdout
    assert ran.stdout

"""One run as a process: its output is read up to a limit, it is killed with all its children, and waited for."""

import asyncio
import os
import secrets
import shutil
import signal
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from aios_tool.adapters.sandbox.bounds import Bounds, Ran

_READ_BYTES = 1 << 16
# Beyond the users of a host, and beyond what container engines map by default.
_FIRST_UID = 1_700_000_000
_UIDS = 100_000_000


async def run_process(
    argv: Sequence[str],
    code: str,
    bounds: Bounds,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str],
    pass_fds: Sequence[int] = (),
) -> Ran:
    """Runs one command with `code` on its stdin.

    Raises:
        OSError: the command cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env=dict(env),
        start_new_session=True,
        pass_fds=tuple(pass_fds),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    stopped_at: str | None = None
    overran = asyncio.Event()
    reading = [
        asyncio.create_task(_read(stream, bounds.output_bytes, overran)) for stream in (process.stdout, process.stderr)
    ]
    try:
        async with asyncio.timeout(bounds.wall_s):
            with suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(code.encode("utf-8", "replace"))
                await process.stdin.drain()
                process.stdin.close()
            ends = [asyncio.ensure_future(process.wait()), asyncio.ensure_future(overran.wait())]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
    except TimeoutError:
        stopped_at = f"{bounds.wall_s:g} s"
    finally:
        _kill(process)
        await asyncio.shield(process.wait())
        await asyncio.wait(reading, timeout=1)
        for task in reading:
            task.cancel()
    if overran.is_set():
        stopped_at = f"{bounds.output_bytes} bytes of output"
    out, err = (_text(task) for task in reading)
    return Ran(out, err, process.returncode if process.returncode is not None else -9, stopped_at)


async def _read(stream: asyncio.StreamReader, limit: int, overran: asyncio.Event) -> bytes:
    """What comes up to a limit; the rest is thrown away, because asyncio waits for the end of what nobody reads."""
    kept = bytearray()
    while chunk := await stream.read(_READ_BYTES):
        kept += chunk[: limit - len(kept) + 1]
        if len(kept) > limit:
            overran.set()
    return bytes(kept[:limit])


def _text(task: "asyncio.Task[bytes]") -> str:
    if not task.done() or task.cancelled() or task.exception() is not None:
        return ""
    return task.result().decode("utf-8", "replace")


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kills the whole group; in a PID namespace the rest dies with its first process."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def sandbox_python() -> Path:
    """An interpreter that a user without rights can start: this one's base, without the virtual environment, or the
    system's. The sandbox sees its standard library only."""
    own = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if os.getuid() != 0 or all(folder.stat().st_mode & stat.S_IXOTH for folder in own.parents):
        return own
    return Path("/usr/bin/python3")


def other_user() -> tuple[list[str], int]:
    """For a manager that is root: what starts a command as a user that nobody else is, and that user's id.

    Limits on the number of processes do not hold for root, and hold for all processes of a user together: so each run
    is a user of its own. Where the manager is not root, limits hold within the namespace of the run.
    """
    if os.getuid() != 0:
        return [], 0
    uid = str(_FIRST_UID + secrets.randbelow(_UIDS))
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise FileNotFoundError("setpriv is not installed; a manager that is root needs it")
    return [setpriv, "--reuid", uid, "--regid", uid, "--clear-groups"], int(uid)

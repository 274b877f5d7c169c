"""What a run in the sandbox may use, how it came to its end, and the program that binds itself before the code runs."""

from dataclasses import dataclass
from typing import Final, Protocol

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one run.

    Attributes:
        memory_bytes: address space of each process.
        cpu_s: CPU of each process, in seconds.
        wall_s: the whole run, in seconds.
        output_bytes: of stdout and stderr, each.
        processes: at once.
        disk_bytes: of the run's own folder.
        open_files: of each process.
    """

    memory_bytes: int = 256 * MIB
    cpu_s: int = 10
    wall_s: float = 20
    output_bytes: int = 256 << 10
    processes: int = 16
    disk_bytes: int = 32 * MIB
    open_files: int = 64


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended.

    Attributes:
        exit_code: of the code; minus the signal where one ended it.
        stopped_at: the limit at which it was ended from outside; None where it ended by itself.
    """

    stdout: str
    stderr: str
    exit_code: int
    stopped_at: str | None = None


class Sandbox(Protocol):
    """Runs code that nobody trusts."""

    @property
    def name(self) -> str:
        """Which kind it is."""

    async def run(self, code: str, bounds: Bounds) -> Ran:
        """Runs Python code to its end, or to its limit; a cancelled run leaves nothing behind."""


BOOT: Final = """
import os, resource, sys
memory, cpu, processes, disk, files = map(int, sys.argv[1:6])
code = sys.stdin.buffer.read()
with open("main.py", "wb") as main:
    main.write(code)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
for kind, limit in (
    (resource.RLIMIT_AS, memory),
    (resource.RLIMIT_CPU, cpu),
    (resource.RLIMIT_NPROC, processes),
    (resource.RLIMIT_FSIZE, disk),
    (resource.RLIMIT_NOFILE, files),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_MEMLOCK, 0),
    (resource.RLIMIT_MSGQUEUE, 0),
):
    resource.setrlimit(kind, (limit, limit))
os.closerange(3, 4096)
os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", "main.py"])
"""
"""Runs first inside the sandbox: takes the code from stdin, gives its rights up for good, becomes the code."""


def boot_arguments(bounds: Bounds) -> list[str]:
    """The arguments of `BOOT`."""
    limits = (bounds.memory_bytes, bounds.cpu_s, bounds.processes, bounds.disk_bytes, bounds.open_files)
    return list(map(str, limits))

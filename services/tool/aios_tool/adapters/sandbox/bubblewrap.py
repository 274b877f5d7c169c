"""The sandbox on bubblewrap: namespaces of its own for everything, a file system with nothing in it but Python.

Of the host the code sees `/usr`, the libraries and the interpreter, read-only; its only other folder is a small one in
memory that is gone after the run. It has no network (not even the loopback of the host), no other processes, no
devices but the harmless ones, no environment, no capabilities, cannot make namespaces, and a filter of system calls
keeps it from the parts of the kernel that code of this kind does not need.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from aios_tool.adapters.sandbox.bounds import BOOT, Bounds, Ran, boot_arguments
from aios_tool.adapters.sandbox.process import other_user, run_process, sandbox_python
from aios_tool.adapters.sandbox.seccomp import filter_program

_NOBODY = 65534
_PROBE = "print('held')"


class Bubblewrap:
    """The `Sandbox` on bubblewrap."""

    name = "bubblewrap"

    def __init__(self, program: str | None = None) -> None:
        """Takes the path of `bwrap`; by default the one on the PATH."""
        self._program = program or shutil.which("bwrap") or ""

    async def works(self) -> bool:
        """Whether it holds on this host: installed, and allowed to make namespaces."""
        if not self._program:
            return False
        try:
            ran = await self.run(_PROBE, Bounds(wall_s=20))
        except OSError:
            return False
        return ran.stdout.strip() == "held"

    async def run(self, code: str, bounds: Bounds) -> Ran:
        """See `Sandbox.run`."""
        with tempfile.TemporaryFile() as rules:
            rules.write(filter_program())
            rules.flush()
            rules.seek(0)
            return await run_process(
                self._argv(bounds, rules.fileno()), code, bounds, env={}, pass_fds=(rules.fileno(),)
            )

    def _argv(self, bounds: Bounds, rules: int) -> list[str]:
        python = sandbox_python()
        as_other, _ = other_user()
        argv = [*as_other, self._program, "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"]
        argv += ["--new-session", "--clearenv", "--cap-drop", "ALL", "--hostname", "sandbox"]
        argv += ["--uid", str(_NOBODY), "--gid", str(_NOBODY), "--seccomp", str(rules)]
        for name, value in (("PATH", "/usr/bin"), ("HOME", "/work"), ("LANG", "C.UTF-8"), ("TMPDIR", "/work")):
            argv += ["--setenv", name, value]
        argv += ["--ro-bind", "/usr", "/usr"]
        for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
            argv += _as_on_the_host(name)
        if not python.is_relative_to("/usr"):
            argv += ["--ro-bind", sys.base_prefix, sys.base_prefix]
        argv += ["--proc", "/proc", "--dev", "/dev", "--size", str(bounds.disk_bytes), "--tmpfs", "/work"]
        # What is left writable must not be a way around the size of the folder.
        argv += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/work"]
        return [*argv, "--", str(python), "-I", "-S", "-c", BOOT, *boot_arguments(bounds)]


def _as_on_the_host(name: str) -> list[str]:
    if os.path.islink(name):  # noqa: PTH114 (a link is passed on as it is, not what it leads to)
        return ["--symlink", str(Path(name).readlink()), name]
    return ["--ro-bind", name, name] if Path(name).is_dir() else []

"""The weaker sandbox, for hosts without bubblewrap: limits, another user, namespaces for network and processes.

What it does not hold: the code sees every file of the host that a user without rights can read, and, where the manager
is not root, every file the manager itself can read. It runs only where the operator chose it.
"""

import os
import shutil
import tempfile
from pathlib import Path

from aios_tool.adapters.sandbox.bounds import BOOT, Bounds, Ran, boot_arguments
from aios_tool.adapters.sandbox.process import other_user, run_process, sandbox_python


class Rlimits:
    """The weaker `Sandbox`."""

    name = "rlimit"

    async def run(self, code: str, bounds: Bounds) -> Ran:
        """See `Sandbox.run`."""
        with tempfile.TemporaryDirectory(prefix="aios-sandbox-") as name:
            folder = Path(name)
            as_other, uid = other_user()
            if uid:
                os.chown(folder, uid, uid)
            argv = [*_namespaces(root=bool(uid)), *as_other, str(sandbox_python()), "-I", "-S", "-c", BOOT]
            argv += boot_arguments(bounds)
            env = {"PATH": "/usr/bin:/bin", "HOME": name, "TMPDIR": name, "LANG": "C.UTF-8"}
            return await run_process(argv, code, bounds, cwd=folder, env=env)


def _namespaces(*, root: bool) -> list[str]:
    unshare = shutil.which("unshare")
    if unshare is None:
        return []
    user = [] if root else ["--user", "--map-current-user"]
    return [unshare, *user, "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child"]

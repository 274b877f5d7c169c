"""The npm packages of `tests/clients/mcp`: real MCP servers, installed once."""

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "clients" / "mcp"
INSTALL_TIMEOUT_S = 300


def installed_mcp_servers() -> Path:
    """The folder of their commands; skips the test where there is no Node.js or the packages cannot be had."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    lock = FOLDER / "package-lock.json"
    done = FOLDER / "node_modules" / ".installed"
    with (FOLDER / "package.json").open() as only_one_at_a_time:
        fcntl.flock(only_one_at_a_time, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != lock.read_text():
            command = [npm, "ci", "--no-audit", "--no-fund"]
            installing = subprocess.run(
                command, cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
            )
            if installing.returncode != 0:
                pytest.skip(f"npm ci failed, perhaps without a network: {installing.stderr.strip()[-300:]}")
            done.write_text(lock.read_text())
    return FOLDER / "node_modules" / ".bin"

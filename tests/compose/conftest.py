"""One `docker compose` installation for all tests of this folder: built, started, taken down with its volumes.

AIOS_TEST_COMPOSE says whether and how: `offline` lays docker-compose.offline.yml over it, for machines that can pull no
image; `full` runs docker-compose.yml as it is. Building takes minutes the first time, so without it nothing runs. With
AIOS_TLS=on, which docker-compose.yml reads itself, the same tests run over TLS.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from support.compose import ROOT, Compose

MODE = os.environ.get("AIOS_TEST_COMPOSE", "")
GUIDE = ROOT / "docs" / "how-to" / "docker-compose.md"


def _why_not() -> str | None:
    if MODE not in ("offline", "full"):
        return "builds images for minutes: set AIOS_TEST_COMPOSE=offline, or =full where images can be pulled"
    if shutil.which("docker") is None:
        return "docker is not installed"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        if subprocess.run(command, capture_output=True, timeout=30, check=False).returncode != 0:
            return f"`{' '.join(command)}` fails: there is no Docker engine with Compose v2"
    return None


@pytest.fixture(scope="session")
def compose() -> Iterator[Compose]:
    reason = _why_not()
    if reason is not None:
        pytest.skip(reason)
    installation = Compose(
        project=f"aios-test-{os.getpid()}",
        files=("docker-compose.yml", *(["tests/compose/docker-compose.offline.yml"] if MODE == "offline" else [])),
    )
    try:
        installation.up()
        yield installation
    finally:
        installation.down()


@pytest.fixture(scope="session")
def agent_token(compose: Compose) -> str:
    """An agent made the way the guide says."""
    script = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert script is not None
    return compose.run("run", "--rm", "-T", "operator", "python", "-", "alice", input=script[1]).strip()


@pytest.fixture(scope="session")
def tls_files(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an agent's environment names on a bus that speaks TLS, fetched as the guide says; nothing without TLS."""
    if not os.environ.get("AIOS_TLS"):
        return {}
    folder = tmp_path_factory.mktemp("tls")
    found = {}
    for variable, name in (("CA", "tls-ca.pem"), ("CERT", "tls-agent.pem"), ("KEY", "tls-agent.key")):
        text = compose.run("run", "--rm", "-T", "operator", "cat", f"/run/secrets/aios/{name}")
        (folder / name).write_text(text)
        found[f"AIOS_TLS_{variable}"] = str(folder / name)
    return found

"""The scripts in the images, and that the compose file keeps up with the repository."""

import asyncio
import importlib.util
import os
import re
import stat
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "infra" / "docker"
NODES = ("nats-1", "nats-2")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"image_{name}", DOCKER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def check_health(server: TestServer, **environment: str) -> tuple[int, str]:
    # As the image does it: without site-packages, isolated.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(DOCKER / "healthcheck.py")),
        env={"AIOS_HTTP_PORT": str(server.port), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode is not None
    return process.returncode, (out + err).decode()


@pytest.fixture
async def probed() -> Any:
    async def ready(_: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def not_ready(_: web.Request) -> web.Response:
        return web.json_response({"status": "not ready", "reason": "no worker is ready"}, status=503)

    app = web.Application()
    app.router.add_get("/readyz", ready)
    app.router.add_get("/health", not_ready)
    async with TestServer(app) as server:
        yield server


async def test_a_ready_service_is_healthy(probed: TestServer) -> None:
    assert (await check_health(probed))[0] == 0


async def test_a_service_that_is_not_ready_is_unhealthy_and_says_why(probed: TestServer) -> None:
    status, output = await check_health(probed, AIOS_HEALTH_PATH="/health")
    assert status == 1
    assert "no worker is ready" in output


async def test_a_dead_service_is_unhealthy(probed: TestServer) -> None:
    port = str(probed.port)
    await probed.close()
    status, output = await check_health(probed, AIOS_HEALTH_PORT=port)
    assert status == 1
    assert f"port {port}" in output


def test_the_packages_of_a_service_are_installed_without_our_own_and_once(tmp_path: Path) -> None:
    for name, dependencies in {
        "one": '"aios-kit", "nats-py>=2"',
        "two": '"nats-py>=2", "Some_Tool==1", "x>=1"',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").write_text(
            f'[project]\nname = "{name}"\ndependencies = [{dependencies}]\n'
        )
    found = script("requirements").third_party([tmp_path / "one", tmp_path / "two"], frozenset({"some-tool"}))
    assert found == ["nats-py>=2", "x>=1"]


def test_each_service_gets_its_own_secrets_and_keeps_them(tmp_path: Path) -> None:
    provision = script("provision")
    owner = provision.Owner(os.getuid(), os.getgid())
    provision.hand_over(tmp_path, NODES, owner, "default")
    secrets = tmp_path / "secrets"
    before = {path: path.read_text() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert {path.name for path in (secrets / "scheduler").iterdir()} == {"scheduler.nk"}
    assert {path.name for path in (tmp_path / "nats").iterdir()} == {f"{node}.conf" for node in NODES}
    assert all((tmp_path / "data" / node).is_dir() for node in NODES)
    for path in before:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0 or path.parent.parent.name == "installation", path
    provision.hand_over(tmp_path, NODES, owner, "default")
    assert {path: path.read_text() for path in before} == before


def test_with_tls_each_service_gets_its_certificate_and_each_node_its_own(tmp_path: Path) -> None:
    provision = script("provision")
    owner = provision.Owner(os.getuid(), os.getgid())
    provision.hand_over(tmp_path, NODES, owner, "default", tls=True)
    secrets = tmp_path / "secrets"
    certificate = {"tls-ca.pem", "tls-service.pem", "tls-service.key"}
    assert {path.name for path in (secrets / "scheduler").iterdir()} == {"scheduler.nk", *certificate}
    assert certificate | {"tls-agent.pem", "tls-agent.key"} <= {path.name for path in (secrets / "operator").iterdir()}
    for node in NODES:
        text = (tmp_path / "nats" / f"{node}.conf").read_text()
        for name in ("tls-ca.pem", f"tls-{node}.pem", f"tls-{node}.key"):
            assert f"/etc/aios/{name}" in text
            assert (tmp_path / "nats" / name).is_file()
    assert not list(tmp_path.rglob("nats/tls-ca.key")), "who has it can make certificates"
    provision.hand_over(tmp_path, NODES, owner, "default", tls=False)
    assert "tls" not in (tmp_path / "nats" / f"{NODES[0]}.conf").read_text(), "it is switched off again"


def test_every_service_of_the_repository_has_a_place_in_the_compose_file() -> None:
    built = set(re.findall(r"SERVICE: (\w+)", (ROOT / "docker-compose.yml").read_text()))
    services = {path.parent.name for path in (ROOT / "services").glob("*/pyproject.toml")} - {"kit"}
    assert built == services


def test_every_pulled_image_is_pinned() -> None:
    images = re.findall(r"image: (\S+)", (ROOT / "docker-compose.yml").read_text())
    pulled = [image for image in images if not image.startswith(("aios/", "*", "&"))]
    assert len(pulled) == 5
    for image in pulled:
        assert re.search(r":v?\d+\.\d+\.\d+", image), image

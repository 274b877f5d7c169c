"""Which processes a stack has, and what each of them is told."""

import socket
from pathlib import Path

import pytest

from aios_stack.certificates import provision_certificates
from aios_stack.data_folder import DataFolder
from aios_stack.ports import choose_ports, is_free
from aios_stack.provision import Credentials, provision_credentials
from aios_stack.readiness import read_detail
from aios_stack.secret_files import SecretFiles
from aios_stack.supervision import Supervision
from aios_stack.topology import ProcessSpec, StackOptions, port_names, processes, tls_environment


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return provision_credentials(SecretFiles(tmp_path / "secrets"))


def build(options: StackOptions, tmp_path: Path, credentials: Credentials) -> dict[str, ProcessSpec]:
    ports = {name: 20_000 + number for number, name in enumerate(port_names(options))}
    environ = {"PATH": "/bin", "AIOS_TOKEN": "default.x.secret", "AIOS_LOG_LEVEL": "debug", "AIOS_INSTANCE": "mine"}
    specs = processes(options, DataFolder(tmp_path), credentials, ports, environ)
    Supervision([spec.plan for spec in specs])  # refuses an impossible plan
    return {spec.name: spec for spec in specs}


def test_the_default_is_one_engine_and_one_worker(tmp_path: Path, credentials: Credentials) -> None:
    specs = build(StackOptions(), tmp_path, credentials)
    assert {"nats", "spans", "access", "engine", "scheduler", "llm-1", "embedder", "embed"} <= set(specs)
    engine = specs["engine"].ports["http"]
    assert specs["llm-1"].env["AIOS_ENGINE_URL"] == f"http://127.0.0.1:{engine}"
    assert specs["llm-1"].env["AIOS_WORKER"] == "llm-1"


def test_the_model_loads_while_the_rest_starts(tmp_path: Path, credentials: Credentials) -> None:
    specs = build(StackOptions(), tmp_path, credentials)
    assert specs["engine"].plan.needs == frozenset()
    assert all("engine" not in spec.plan.needs for spec in specs.values())


def test_nothing_that_waits_for_the_model_is_killed_before_the_engine_would_be(
    tmp_path: Path, credentials: Credentials
) -> None:
    specs = build(StackOptions(), tmp_path, credentials)
    patience = {specs[name].plan.start_timeout_s for name in ("engine", "scheduler", "llm-1")}
    assert len(patience) == 1


def test_an_external_engine_is_used_and_none_started(tmp_path: Path, credentials: Credentials) -> None:
    specs = build(StackOptions(engine_url="http://gpu:8080", workers=2), tmp_path, credentials)
    assert "engine" not in specs
    assert {specs[name].env["AIOS_ENGINE_URL"] for name in ("llm-1", "llm-2")} == {"http://gpu:8080"}
    assert len({specs[name].env["AIOS_ENGINE_ID"] for name in ("llm-1", "llm-2")}) == 1, "they share its slots"


def test_only_the_bus_has_no_scheduler_and_no_workers(tmp_path: Path, credentials: Credentials) -> None:
    assert list(build(StackOptions(only_bus=True), tmp_path, credentials)) == ["nats", "spans", "access"]


def test_services_inherit_settings_but_not_the_callers_identity(tmp_path: Path, credentials: Credentials) -> None:
    access = build(StackOptions(), tmp_path, credentials)["access"]
    assert access.env["AIOS_LOG_LEVEL"] == "debug"
    assert "AIOS_TOKEN" not in access.env
    assert access.env["AIOS_INSTANCE"] == "access"
    assert access.env["AIOS_NATS_NKEY_FILE"] == str(credentials.seeds["access"])


def test_on_a_bus_with_tls_every_service_is_told_its_certificate_and_not_the_callers(
    tmp_path: Path, credentials: Credentials
) -> None:
    certificates = provision_certificates(SecretFiles(tmp_path / "secrets"))
    options = StackOptions(tls=True)
    ports = {name: 20_000 + number for number, name in enumerate(port_names(options))}
    folder, environ = DataFolder(tmp_path), tls_environment(certificates.agent)
    for certified in (certificates, None):
        for spec in processes(options, folder, credentials, ports, environ, certified):
            if "AIOS_NATS_URL" in spec.env:
                expected = {} if certified is None else tls_environment(certified.service)
                assert {name: text for name, text in spec.env.items() if "_TLS_" in name} == expected, spec.name


def test_no_secret_stands_in_a_command_line_or_an_environment(tmp_path: Path, credentials: Credentials) -> None:
    secrets = [path.read_text().strip() for path in (tmp_path / "secrets").iterdir() if path.suffix != ".json"]
    for spec in build(StackOptions(), tmp_path, credentials).values():
        told = [*spec.argv, *spec.env.values()]
        assert not any(secret in text for secret in secrets for text in told)


def test_a_proxy_for_the_internet_is_not_asked_for_this_machine(tmp_path: Path, credentials: Credentials) -> None:
    options = StackOptions()
    ports = {name: 20_000 + number for number, name in enumerate(port_names(options))}
    environ = {"HTTP_PROXY": "http://proxy:3128", "no_proxy": "corp.example"}
    for spec in processes(options, DataFolder(tmp_path), credentials, ports, environ):
        if spec.name != "nats":
            assert spec.env["NO_PROXY"] == spec.env["no_proxy"] == "corp.example,127.0.0.1,localhost"


def test_ports_stay_the_same_where_they_are_free() -> None:
    first = choose_ports(["a", "b"], {})
    assert first["a"] != first["b"]
    assert all(is_free(port) for port in first.values())
    second = choose_ports(["c", "b", "a"], first)
    assert (second["a"], second["b"]) == (first["a"], first["b"])
    assert second["c"] not in first.values()


def test_a_port_that_somebody_else_took_is_replaced() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert choose_ports(["a"], {"a": port})["a"] != port


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"status": "not ready", "reason": "waiting for the engine"}', "waiting for the engine"),
        ('{"stage": "requantising", "percent": 42.4}', "requantising 42 %"),
        ("starting", "starting"),
        ("[1]", ""),
        ("", ""),
    ],
)
def test_what_a_starting_process_says_is_shown(body: str, said: str) -> None:
    assert read_detail(body) == said


def test_an_external_embedding_server_is_used_and_none_started(tmp_path: Path, credentials: Credentials) -> None:
    specs = build(StackOptions(embed_url="http://gpu:8081"), tmp_path, credentials)
    assert "embedder" not in specs
    assert specs["embed"].env["AIOS_EMBED_URL"] == "http://gpu:8081"

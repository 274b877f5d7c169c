"""What a service can be told by its environment."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from aios_kit.settings import ServiceSettings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AIOS_NATS_URL": "nats://a:1,nats://b:2",
        "AIOS_NATS_NKEY_FILE": "/run/key",
        "AIOS_INSTANCE": "memory-1",
        "AIOS_HTTP_PORT": "8080",
        "AIOS_DRAIN_TIMEOUT_S": "2.5",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
    }.items():
        monkeypatch.setenv(name, value)
    settings = ServiceSettings()
    assert settings.nats_url == "nats://a:1,nats://b:2"
    assert settings.nats_nkey_file == Path("/run/key")
    assert (settings.instance, settings.http_port, settings.drain_timeout_s) == ("memory-1", 8080, 2.5)
    assert settings.otlp_endpoint == "http://collector:4318"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AIOS_INSTANCE", "has.dots"),
        ("AIOS_HTTP_PORT", "70000"),
        ("AIOS_DRAIN_TIMEOUT_S", "0"),
        ("AIOS_LOG_LEVEL", "loud"),
        ("AIOS_JETSTREAM_REPLICAS", "0"),
        ("AIOS_TRACE_SAMPLE_RATIO", "2"),
    ],
)
def test_a_wrong_value_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.removeprefix("AIOS_").lower()):
        ServiceSettings()


def test_the_instance_defaults_to_a_legal_name() -> None:
    assert ServiceSettings().instance


def test_a_setting_can_be_given_by_its_name_and_one_that_is_none_is_refused() -> None:
    assert ServiceSettings(otlp_endpoint="http://collector:4318").otlp_endpoint == "http://collector:4318"
    with pytest.raises(ValidationError, match="endpoint_of_nothing"):
        ServiceSettings(endpoint_of_nothing="x")  # type: ignore[call-arg]

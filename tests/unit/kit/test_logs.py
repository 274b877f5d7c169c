"""What an operator reads: one JSON object a line, with the ids of the call and its trace."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from aios_kit.logs import setup_logging
from aios_kit.settings import ServiceSettings


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_service_instance_and_the_ids_given() -> None:
    stream = io.StringIO()
    log = setup_logging("memory", ServiceSettings(instance="memory-2"), stream)
    log.info("stored", syscall_id="01A", trace_id="ab" * 16)
    (line,) = lines(stream)
    assert line["event"] == "stored"
    assert line["level"] == "info"
    assert (line["service"], line["instance"]) == ("memory", "memory-2")
    assert (line["syscall_id"], line["trace_id"]) == ("01A", "ab" * 16)
    assert str(line["timestamp"]).endswith("Z")


def test_an_exception_is_one_line_with_its_traceback() -> None:
    stream = io.StringIO()
    log = setup_logging("memory", ServiceSettings(), stream)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("failed")
    (line,) = lines(stream)
    assert "ValueError: two\nlines" in str(line["exception"])


def test_libraries_log_into_the_same_stream_in_the_same_form() -> None:
    stream = io.StringIO()
    setup_logging("memory", ServiceSettings(), stream)
    logging.getLogger("some.library").warning("careful: %s", "hot")
    assert lines(stream)[0]["event"] == "careful: hot"


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    log = setup_logging("memory", ServiceSettings(log_level="warning"), stream)
    log.info("chatter")
    logging.getLogger("some.library").info("chatter")
    log.warning("important")
    assert [line["event"] for line in lines(stream)] == ["important"]


def test_a_newline_in_a_value_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    setup_logging("memory", ServiceSettings(), stream).info("said", text='x\n{"event":"forged"}')
    assert [line["event"] for line in lines(stream)] == ["said"]


def test_the_console_form_is_readable_text() -> None:
    stream = io.StringIO()
    setup_logging("memory", ServiceSettings(log_format="console"), stream).info("stored", syscall_id="01A")
    assert "stored" in stream.getvalue()
    assert "syscall_id=01A" in stream.getvalue()

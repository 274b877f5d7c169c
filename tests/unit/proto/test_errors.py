"""An error that crossed the wire is the error that was raised."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_proto import errors
from aios_proto.errors import AiosError, ErrorBody, wire_codes

CODES = wire_codes()


@pytest.mark.parametrize("code", CODES)
@settings(max_examples=20)
@given(
    message=st.text(),
    retryable=st.booleans() | st.none(),
    field=st.none() | st.text(),
    retry_after_s=st.none() | st.floats(0, 1e6),
    trace_id=st.none() | st.text(min_size=1),
)
def test_every_error_comes_back_as_its_own_class_with_all_it_carried(
    code: str,
    message: str,
    retryable: bool | None,
    field: str | None,
    retry_after_s: float | None,
    trace_id: str | None,
) -> None:
    cls = CODES[code]
    sent = cls(message, retryable=retryable, field=field, retry_after_s=retry_after_s, trace_id=trace_id)
    body = ErrorBody.model_validate_json(sent.body(syscall_id="call-1").model_dump_json())
    got = AiosError.from_body(body)
    assert type(got) is cls
    assert got.code == code == cls.code
    assert got.message == message
    assert got.retryable is (cls.default_retryable if retryable is None else retryable)
    assert (got.field, got.retry_after_s, got.syscall_id, got.trace_id) == (field, retry_after_s, "call-1", trace_id)


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("queue.moon_phase", errors.QueueError),
        ("engine.on.fire", errors.EngineError),
        ("access", errors.AccessError),
        ("weather.rain", AiosError),
        ("", AiosError),
    ],
)
def test_an_unknown_code_is_its_family_and_keeps_its_code(code: str, family: type[AiosError]) -> None:
    got = AiosError.from_body(ErrorBody(code=code, message="m", retryable=True))
    assert type(got) is family
    assert got.code == code
    assert got.retryable
    assert family.code != code or code == "access"


def test_every_code_belongs_to_a_family_class_and_says_what_it_means() -> None:
    assert len(CODES) > 25
    for code, cls in CODES.items():
        assert cls.__doc__, code
        assert cls.code == code
        if code != "internal":
            family = AiosError._by_code[code.split(".")[0]]
            assert issubclass(cls, family), code


def test_ids_an_error_has_already_are_kept() -> None:
    body = errors.QueueFull("full", syscall_id="mine", trace_id="t").body(syscall_id="other", trace_id="u")
    assert (body.syscall_id, body.trace_id) == ("mine", "t")


def test_the_text_of_an_error_names_code_and_field() -> None:
    assert str(errors.InvalidRequest("too long", field="messages.0.content")) == (
        "request.invalid: too long (field messages.0.content)"
    )
    assert str(errors.WorkerLost("gone")) == "engine.worker_lost: gone"

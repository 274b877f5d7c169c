"""A frame is told by its type, and readers ignore what they do not know."""

import pytest
from pydantic import ValidationError

from aios_proto.errors import QueueFull
from aios_proto.frames import FRAME, Accepted, Delta, Done, Failed, PendingApproval, Timings, Usage

FRAMES = [
    Accepted(id="x", trace_id="t"),
    PendingApproval(id="x", approval_id="a", expires_ms=1),
    Delta(id="x", offset=1, tokens=2, text_offset=3, text="é"),
    Done(id="x", result={"a": [1]}, usage=Usage(prompt_tokens=1, completion_tokens=2), worker="w"),
    Done(id="x", result={}, timings=Timings(queued_ms=1, scheduled_ms=2, first_token_ms=None, total_ms=3)),
    Failed(id="x", error=QueueFull("full", retry_after_s=1).body()),
]


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_is_read_as_it_was_written(frame: Accepted | PendingApproval | Delta | Done | Failed) -> None:
    assert FRAME.validate_json(frame.model_dump_json()) == frame
    assert FRAME.validate_json(frame.model_dump_json(exclude_none=True)) == frame


def test_a_field_of_a_newer_kernel_is_ignored() -> None:
    assert FRAME.validate_python({"type": "accepted", "id": "x", "mood": "good"}) == Accepted(id="x")


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"id": "x"},
        {"type": "accepted"},
        {"type": "accepted", "id": "a b"},
        {"type": "joke", "id": "x"},
        {"type": "delta", "id": "x", "offset": -1, "tokens": 0, "text_offset": 0, "text": ""},
        {"type": "delta", "id": "x", "offset": 0, "tokens": 0, "text": ""},
        {"type": "done", "id": "x"},
        {"type": "done", "id": "x", "result": []},
        {"type": "error", "id": "x"},
        {"type": "error", "id": "x", "error": {"code": "internal"}},
    ],
)
def test_what_is_no_frame_is_refused(frame: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FRAME.validate_python(frame)

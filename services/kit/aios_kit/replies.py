"""How frames are written: small JSON objects, serialised without a model on the way out, since they are made here."""

from collections.abc import Sequence
from typing import Any

import orjson

from aios_proto.errors import AiosError, InternalError
from aios_proto.frames import Timings, Usage
from aios_proto.messages.base import Result


def accepted(call_id: str, trace_id: str | None) -> bytes:
    """An `accepted` frame."""
    return orjson.dumps({"type": "accepted", "id": call_id, "trace_id": trace_id})


def pending_approval(call_id: str, approval_id: str, expires_ms: int) -> bytes:
    """A `pending_approval` frame."""
    return orjson.dumps(
        {"type": "pending_approval", "id": call_id, "approval_id": approval_id, "expires_ms": expires_ms}
    )


def delta(
    call_id: str,
    offset: int,
    tokens: int,
    text_offset: int,
    text: str,
    logprobs: tuple[int, Sequence[bytes]] | None = None,
) -> bytes:
    """A `delta` frame; see `aios_proto.frames.Delta` for the fields.

    Args:
        logprobs: how many entries come before these, and these, which are JSON already.
    """
    frame: dict[str, object] = {
        "type": "delta",
        "id": call_id,
        "offset": offset,
        "tokens": tokens,
        "text_offset": text_offset,
        "text": text,
    }
    if logprobs is not None:
        frame["logprobs_offset"] = logprobs[0]
        frame["logprobs"] = [orjson.Fragment(entry) for entry in logprobs[1]]
    return orjson.dumps(frame)


def done(
    call_id: str,
    result: Result | dict[str, Any],
    *,
    usage: Usage | None = None,
    timings: Timings | None = None,
    worker: str | None = None,
    logprobs: Sequence[bytes] | None = None,
) -> bytes:
    """A `done` frame; fields at None are left out. The entries of `logprobs` are JSON already, and join the result."""
    body = result if isinstance(result, dict) else result.model_dump(mode="json", exclude_none=True)
    if logprobs is not None:
        body = {**body, "logprobs": [orjson.Fragment(entry) for entry in logprobs]}
    frame: dict[str, Any] = {"type": "done", "id": call_id, "result": body}
    if usage is not None:
        frame["usage"] = usage.model_dump()
    if timings is not None:
        frame["timings"] = timings.model_dump(exclude_none=True)
    if worker is not None:
        frame["worker"] = worker
    return orjson.dumps(frame)


def failed(call_id: str, error: AiosError, *, trace_id: str | None = None, usage: Usage | None = None) -> bytes:
    """An `error` frame; fields at None are left out."""
    body = error.body(syscall_id=call_id, trace_id=trace_id).model_dump(exclude_none=True)
    frame: dict[str, Any] = {"type": "error", "id": call_id, "error": body}
    if usage is not None:
        frame["usage"] = usage.model_dump()
    return orjson.dumps(frame)


def internal(service: str) -> InternalError:
    """What a caller is told when a handler raised something nobody foresaw; the cause goes to the log only."""
    return InternalError(f"{service} failed; the log has the cause under the trace id", retryable=False)

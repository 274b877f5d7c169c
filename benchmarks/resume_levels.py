"""How calls went on after they were stopped, from the spans of their traces."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aios_proto import telemetry
from aios_stack.data_folder import DataFolder
from aios_stack.spans.record import SpanRecord
from aios_stack.spans.store import SpanReader

LEVELS = ("hot", "warm", "cold", "anew")
SPANS_DEADLINE_S = 60.0
ASK_AGAIN_S = 0.2


@dataclass(frozen=True)
class Resumed:
    """How one call went on.

    Attributes:
        level: where its KV came from; `anew` where nothing was kept of it.
        tokens: of the answer that it went on from.
    """

    level: str
    tokens: int


def resumed_calls(folder: Path, workers: Mapping[str, str]) -> dict[str, Resumed]:
    """Those of the calls that more than one attempt was needed for, by their id.

    Args:
        folder: of the stack.
        workers: by call id, the worker that ended the call.

    Raises:
        TimeoutError: the span of a call's last run did not come.
    """
    until = time.monotonic() + SPANS_DEADLINE_S
    found: dict[str, Resumed] = {}
    missing = dict(workers)
    with SpanReader(DataFolder.find(folder).spans) as reader:
        while True:
            for call_id, worker in list(missing.items()):
                spans = [span for trace in reader.traces_of(call_id) for span in reader.spans_of(trace)]
                run = _last_run(spans, worker)
                if run is None:
                    continue
                del missing[call_id]
                if int(str(run.attributes[telemetry.ATTEMPT])) > 1:
                    found[call_id] = _resumed(spans)
            if not missing:
                return found
            if time.monotonic() > until:
                raise TimeoutError(f"no span came of the last run of {len(missing)} of {len(workers)} calls")
            time.sleep(ASK_AGAIN_S)  # SQLite tells other processes nothing


def _last_run(spans: Sequence[SpanRecord], worker: str) -> SpanRecord | None:
    runs = [
        span for span in spans if span.name == telemetry.SPAN_WORKER and span.attributes.get(telemetry.WORKER) == worker
    ]
    return max(runs, key=lambda span: span.start_ns, default=None)


def _resumed(spans: Sequence[SpanRecord]) -> Resumed:
    for span in reversed(spans):
        level = span.attributes.get(telemetry.RESUME_LEVEL)
        if span.name == telemetry.SPAN_RESUMED and level is not None:
            return Resumed(str(level), int(str(span.attributes[telemetry.RESUMED_TOKENS])))
    return Resumed("anew", 0)

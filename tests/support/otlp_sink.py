"""An OTLP/HTTP receiver inside a test, and what makes spans one connected trace as Jaeger needs it.

The sink has a thread of its own, so that it takes spans while a test blocks, and serves synchronous and asynchronous
tests alike. Pass `sink.endpoint` as `OTEL_EXPORTER_OTLP_ENDPOINT`.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from aios_stack.spans.otlp import BadRequest, parse, records, unpack
from aios_stack.spans.record import SpanRecord

_LIMIT_BYTES = 64 << 20
SpanCheck = Callable[[Sequence[SpanRecord]], bool]


class OtlpSink:
    """Collects every span sent to it. Use as a context manager."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._spans: list[SpanRecord] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                try:
                    plain = unpack(body, self.headers.get("Content-Encoding", ""), _LIMIT_BYTES)
                    spans = list(records(parse(plain, self.headers.get_content_type())))
                except BadRequest as error:
                    self._answer(400, str(error).encode())
                    return
                sink._take(spans)
                self._answer(200, b"")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def endpoint(self) -> str:
        """Base URL, without `/v1/traces`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def spans(self) -> list[SpanRecord]:
        """All spans so far, in order of arrival."""
        with self._arrived:
            return list(self._spans)

    def clear(self) -> None:
        """Forgets all spans."""
        with self._arrived:
            self._spans.clear()

    def wait_until(self, check: SpanCheck, timeout_s: float = 10) -> list[SpanRecord]:
        """Blocks until the spans satisfy `check`; fails the test with what came where they do not in time."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: check(self._spans), timeout_s):
                seen = ", ".join(f"{span.service}/{span.name}" for span in self._spans) or "none"
                raise AssertionError(f"the spans waited for did not come within {timeout_s} s; came: {seen}")
            return list(self._spans)

    async def wait(self, check: SpanCheck, timeout_s: float = 10) -> list[SpanRecord]:
        """`wait_until` for asynchronous tests."""
        return await asyncio.to_thread(self.wait_until, check, timeout_s)

    async def trace(self, trace_id: str, has: SpanCheck, timeout_s: float = 10) -> list[SpanRecord]:
        """The spans of one trace, once `has` holds for them."""

        def only(spans: Sequence[SpanRecord]) -> list[SpanRecord]:
            return [span for span in spans if span.trace_id == trace_id]

        return only(await self.wait(lambda spans: has(only(spans)), timeout_s))

    def _take(self, spans: Sequence[SpanRecord]) -> None:
        with self._arrived:
            self._spans.extend(spans)
            self._arrived.notify_all()


def is_connected(spans: Sequence[SpanRecord]) -> bool:
    """Whether the spans are one whole trace, for waiting; `assert_one_connected_trace` says what is wrong."""
    try:
        assert_one_connected_trace(spans)
    except AssertionError:
        return False
    return True


def assert_one_connected_trace(spans: Sequence[SpanRecord], trace_id: str | None = None) -> SpanRecord:
    """One trace, exactly one root, every parent there, no cycle, sound times and services; gives the root."""
    assert spans, "no spans"
    traces = {span.trace_id for span in spans}
    assert len(traces) == 1, f"{len(traces)} traces: {sorted(traces)}"
    assert trace_id is None or traces == {trace_id}, f"trace {traces} instead of {trace_id}"
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans), "a span id came twice"
    roots = [span for span in spans if span.parent_id is None]
    assert len(roots) == 1, f"{len(roots)} roots: {[f'{span.service}/{span.name}' for span in roots]}"
    for span in spans:
        assert span.service, f"{span.name!r} has no service.name"
        assert 0 < span.start_ns <= span.end_ns, f"{span.name!r} ends before it starts"
        seen: set[str] = set()
        at = span
        while at.parent_id is not None:
            assert at.span_id not in seen, f"cycle through {span.name!r}"
            seen.add(at.span_id)
            assert at.parent_id in by_id, f"{at.service}/{at.name} has a parent that did not come"
            at = by_id[at.parent_id]
    return roots[0]

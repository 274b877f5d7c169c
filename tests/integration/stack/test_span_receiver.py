"""The span store as OpenTelemetry's own exporter meets it, and as strangers do."""

import asyncio
import gzip
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Status, StatusCode
from support.otlp_sink import OtlpSink, assert_one_connected_trace

from aios_proto.telemetry import SYSCALL_ID
from aios_stack.spans.receiver import running
from aios_stack.spans.settings import SpanStoreSettings
from aios_stack.spans.store import SpanReader

BAD_ID = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}).encode()


def settings(tmp_path: Path, **changes: object) -> SpanStoreSettings:
    return SpanStoreSettings.model_validate({"path": tmp_path / "data" / "spans.db", "port": 0, **changes})


def export(endpoint: str, call: str, compression: Compression = Compression.NoCompression) -> str:
    """Sends a small trace with the real exporter; gives the trace id."""
    provider = TracerProvider(resource=Resource.create({"service.name": "aios-access"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=5, compression=compression)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with (
        tracer.start_as_current_span("access", attributes={SYSCALL_ID: call}) as root,
        tracer.start_as_current_span("scheduler.queue") as child,
    ):
        child.add_event("accepted")
        child.set_status(Status(StatusCode.ERROR, "queue full"))
    provider.shutdown()
    return f"{root.get_span_context().trace_id:032x}"


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip, Compression.Deflate])
async def test_spans_of_the_real_exporter_are_found_by_their_call(tmp_path: Path, compression: Compression) -> None:
    store = settings(tmp_path)
    async with running(store) as url:
        trace_id = await asyncio.to_thread(export, url, "call-1", compression)
    with SpanReader(store.path) as reader:
        assert reader.traces_of("call-1") == [trace_id]
        spans = reader.spans_of(trace_id)
    root = assert_one_connected_trace(spans)
    assert (root.name, root.service) == ("access", "aios-access")
    (child,) = (span for span in spans if span.parent_id)
    assert (child.status, child.status_message) == ("error", "queue full")
    assert [event.name for event in child.events] == ["accepted"]


async def test_json_with_hex_ids_is_taken_too(tmp_path: Path) -> None:
    store = settings(tmp_path)
    span = {
        "traceId": "5B8EFFF798038103D269B633813FC60C",
        "spanId": "EEE19B7EC3C1B174",
        "name": "browser",
        "kind": 3,
        "startTimeUnixNano": "1544712660000000000",
        "endTimeUnixNano": "1544712661000000000",
        "attributes": [{"key": SYSCALL_ID, "value": {"stringValue": "from-json"}}],
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "web"}}]}
    document = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}
    async with (
        running(store) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/traces", json=document) as response,
    ):
        assert (response.status, await response.json()) == (200, {})
    with SpanReader(store.path) as reader:
        (trace_id,) = reader.traces_of("from-json")
        assert trace_id == "5b8efff798038103d269b633813fc60c"
        assert reader.spans_of(trace_id)[0].duration_ms == 1000


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"\xff\xff\xff", {"Content-Type": "application/x-protobuf"}, 400),
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"[]", {"Content-Type": "application/json"}, 400),
        (b'{"resourceSpans": [3]}', {"Content-Type": "application/json"}, 400),
        (
            json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}).encode(),
            {"Content-Type": "application/json"},
            400,
        ),
        (b"hello", {"Content-Type": "text/plain"}, 415),
        (b"not gzip", {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}, 400),
        (b"", {"Content-Type": "application/x-protobuf", "Content-Encoding": "br"}, 400),
        (gzip.compress(bytes(100_000)), {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}, 413),
        (bytes(100_000), {"Content-Type": "application/x-protobuf"}, 413),
    ],
)
async def test_a_bad_request_is_refused_and_the_store_goes_on(
    tmp_path: Path, body: bytes, headers: dict[str, str], status: int
) -> None:
    store = settings(tmp_path, max_request_bytes=50_000)
    async with running(store) as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/v1/traces", data=body, headers=headers) as response:
            assert response.status == status
        await asyncio.to_thread(export, url, "after")
    with SpanReader(store.path) as reader:
        assert len(reader.traces_of("after")) == 1


async def test_a_copy_reaches_the_other_collector(tmp_path: Path) -> None:
    with OtlpSink() as sink:
        async with running(settings(tmp_path, forward_endpoint=sink.endpoint)) as url:
            trace_id = await asyncio.to_thread(export, url, "forwarded", Compression.Gzip)
            spans = await sink.trace(trace_id, lambda found: len(found) == 2)
    assert_one_connected_trace(spans, trace_id)


async def test_a_dead_collector_costs_no_span(tmp_path: Path) -> None:
    store = settings(tmp_path, forward_endpoint="http://127.0.0.1:9")
    async with running(store) as url:
        trace_id = await asyncio.to_thread(export, url, "kept")
    with SpanReader(store.path) as reader:
        assert len(reader.spans_of(trace_id)) == 2


async def test_a_store_that_cannot_keep_up_tells_senders_to_retry(tmp_path: Path) -> None:
    store = settings(tmp_path, queue_requests=1)
    async with running(store) as url, aiohttp.ClientSession() as session:
        with SpanReader(store.path) as reader:
            reader._connection.execute("PRAGMA query_only = OFF")
            reader._connection.execute("BEGIN IMMEDIATE")  # another process holds the file
            statuses: list[int] = []
            async with asyncio.timeout(15):  # the writer may still give up a request before it is full for good
                while 503 not in statuses:
                    body = json.dumps({"resourceSpans": [], "n": len(statuses)}).encode()
                    async with session.post(
                        f"{url}/v1/traces", data=body, headers={"Content-Type": "application/json"}
                    ) as response:
                        statuses.append(response.status)
            reader._connection.execute("ROLLBACK")
    assert set(statuses[:-1]) == {200}


async def test_the_process_stops_on_sigterm_with_everything_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "spans.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aios_stack.spans",
        env={
            **os.environ,
            "AIOS_SPANS_PATH": str(path),
            "AIOS_SPANS_PORT": "0",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    line = (await asyncio.wait_for(process.stderr.readline(), 15)).decode()
    trace_id = await asyncio.to_thread(export, line.split()[3].rstrip(","), "last")
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    with SpanReader(path) as reader:
        assert len(reader.spans_of(trace_id)) == 2

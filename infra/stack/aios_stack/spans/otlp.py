"""How OTLP/HTTP trace requests are read: protobuf and JSON, plain and gzip (OpenTelemetry Protocol 1.x)."""

import base64
import binascii
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as StatusMessage

from aios_stack.spans.record import AttributeValue, SpanEvent, SpanRecord, Status

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
_ID_FIELDS = ("traceId", "spanId", "parentSpanId")


class BadRequest(ValueError):
    """The body is not what its headers say."""


class TooLarge(ValueError):
    """The body is larger than the receiver takes."""


def unpack(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """The body without its `Content-Encoding`.

    Raises:
        BadRequest: the encoding is unknown or the body is damaged.
        TooLarge: the plain body has more than `limit_bytes` bytes.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise BadRequest(f"content encoding {encoding!r} is not supported")
    try:
        if encoding == "gzip":
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
                plain = file.read(limit_bytes + 1)
        else:
            plain = zlib.decompressobj().decompress(body, limit_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadRequest(f"the {encoding} body is damaged") from error
    if len(plain) > limit_bytes:
        raise TooLarge(f"the body has more than {limit_bytes} bytes")
    return plain


def parse(body: bytes, content_type: str) -> ExportTraceServiceRequest:
    """The request as a message.

    Raises:
        BadRequest: the content type is unknown or the body does not fit it.
    """
    if content_type == PROTOBUF:
        try:
            return ExportTraceServiceRequest.FromString(body)
        except DecodeError as error:
            raise BadRequest("the body is not an OTLP trace request") from error
    if content_type == JSON:
        try:
            document = json.loads(body)
            for span in _json_spans(document):
                for key in _ID_FIELDS:
                    if key in span:  # OTLP/JSON writes ids in hex where protobuf's JSON has base 64
                        span[key] = base64.b64encode(binascii.unhexlify(str(span[key]))).decode()
            return ParseDict(document, ExportTraceServiceRequest(), ignore_unknown_fields=True)
        except (ValueError, TypeError, AttributeError, ParseError) as error:
            raise BadRequest("the body is not an OTLP/JSON trace request") from error
    raise BadRequest(f"content type {content_type!r} is not supported")


def records(request: ExportTraceServiceRequest) -> Iterator[SpanRecord]:
    """The spans of a request; those without legal ids, which nothing could refer to, are left out."""
    for resource in request.resource_spans:
        service = str(_attributes(resource.resource.attributes).get("service.name", ""))
        for scope in resource.scope_spans:
            for span in scope.spans:
                if len(span.trace_id) == 16 and len(span.span_id) == 8:
                    yield _record(service, span)


def _json_spans(document: object) -> Iterator[dict[str, object]]:
    if not isinstance(document, dict):
        raise BadRequest("the body is not a JSON object")
    for resource in document.get("resourceSpans", []):
        for scope in resource.get("scopeSpans", []):
            for span in scope.get("spans", []):
                yield span
                yield from span.get("links", [])


def _record(service: str, span: Span) -> SpanRecord:
    return SpanRecord(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        service=service,
        name=span.name,
        kind=int(span.kind),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status=_status(span.status),
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        events=tuple(SpanEvent(e.name, e.time_unix_nano, _attributes(e.attributes)) for e in span.events),
    )


def _status(status: StatusMessage) -> Status:
    if status.code == StatusMessage.STATUS_CODE_ERROR:
        return Status.ERROR
    return Status.OK if status.code == StatusMessage.STATUS_CODE_OK else Status.UNSET


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, AttributeValue]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> AttributeValue:
    match value.WhichOneof("value"):
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "array_value":
            return tuple(_value(item) for item in value.array_value.values)
        case "kvlist_value":
            return json.dumps({pair.key: _value(pair.value) for pair in value.kvlist_value.values})
        case "bytes_value":
            return value.bytes_value.hex()
        case _:
            return value.string_value

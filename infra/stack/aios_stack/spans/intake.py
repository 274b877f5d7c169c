"""What happens to accepted spans: a bounded queue to one thread that writes them in batches, off the event loop."""

import queue
import threading
from pathlib import Path

import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from aios_stack.spans.otlp import records
from aios_stack.spans.store import SpanWriter

_BATCH_REQUESTS = 32


class Intake:
    """The way from the receiver to the file."""

    def __init__(self, path: Path, *, max_bytes: int, queue_requests: int) -> None:
        """Does not open anything yet.

        Args:
            path: the span file.
            max_bytes: size above which the oldest traces are dropped.
            queue_requests: requests that may wait for the disk.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._queue: queue.Queue[ExportTraceServiceRequest | None] = queue.Queue(queue_requests)
        self._opened = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="span-writer", daemon=True)
        self.stored = 0

    @property
    def failure(self) -> BaseException | None:
        """What ended the writer before its time."""
        return self._failure

    def start(self, timeout_s: float = 10) -> None:
        """Opens the file; blocks until it is open.

        Raises:
            OSError: the file cannot be opened.
        """
        self._thread.start()
        if not self._opened.wait(timeout_s) or self._failure is not None:
            raise OSError(f"cannot open the span file {self._path}: {self._failure or 'timeout'}") from self._failure

    def offer(self, request: ExportTraceServiceRequest) -> bool:
        """Takes a request if there is room; never blocks."""
        if self._failure is not None:
            return False
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            return False
        return True

    def close(self, timeout_s: float = 5) -> None:
        """Writes what was accepted and closes the file; blocks."""
        if self._thread.is_alive():
            self._queue.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            writer = SpanWriter(self._path, self._max_bytes)
            try:
                self._opened.set()
                self._write(writer)
            finally:
                writer.close()
        except Exception as error:
            structlog.stdlib.get_logger("spans").exception("the span writer stopped")
            self._failure = error
        finally:
            self._opened.set()

    def _write(self, writer: SpanWriter) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < _BATCH_REQUESTS and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            self.stored += writer.add(record for request in batch if request is not None for record in records(request))
            if None in batch:
                return

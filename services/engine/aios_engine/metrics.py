"""What the engine counts, under text-generation-inference's own names.

TGI's counters have no `_total` at their end, which `prometheus_client` would add, so they are exposed as untyped
samples; rates over them work the same.
"""

from collections.abc import Callable, Iterable
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aios_engine.backend import Load, Progress, StepReport

_NS: Final = 1e-9
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKENS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)

_COUNTERS: Final = {
    "tgi_request_count": "Requests received.",
    "tgi_request_success": "Generations that ended well.",
    "tgi_request_failure": "Requests that failed, by kind.",
    "tgi_batch_inference_count": "Steps of the model.",
    "tgi_batch_inference_success": "Steps of the model that succeeded.",
}
FailureKind = Literal["overloaded", "validation", "generation", "incomplete", "template", "tool", "unhealthy"]


class _Live(Collector):
    """Counters and the gauges that are read when they are asked for."""

    def __init__(self, load: Callable[[], Load], total_tokens: Callable[[], int]) -> None:
        self._load = load
        self._total_tokens = total_tokens
        self.counts: dict[str, dict[tuple[str, str] | None, int]] = {name: {} for name in _COUNTERS}
        self.counts["tgi_request_count"][None] = self.counts["tgi_request_success"][None] = 0

    def add(self, name: str, label: tuple[str, str] | None = None) -> None:
        counts = self.counts[name]
        counts[label] = counts.get(label, 0) + 1

    def collect(self) -> Iterable[Metric]:
        load = self._load()
        gauges = {
            "tgi_queue_size": ("Sequences waiting.", load.waiting),
            "tgi_batch_current_size": ("Sequences running.", load.running),
            "tgi_batch_current_max_tokens": ("Tokens of KV promised to running sequences.", load.reserved_tokens),
            "tgi_batch_max_total_tokens": ("Tokens of KV there are.", self._total_tokens()),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)
        for name, text in _COUNTERS.items():
            metric = Metric(name, text, "unknown")
            for label, count in list(self.counts[name].items()):
                metric.add_sample(name, {} if label is None else dict([label]), count)
            yield metric


class EngineMetrics:
    """The engine's metrics, in a registry of their own. Counting is safe from the engine thread."""

    def __init__(self, load: Callable[[], Load], total_tokens: Callable[[], int]) -> None:
        """Registers everything.

        Args:
            load: how busy the backend is.
            total_tokens: tokens of KV.
        """
        self._registry = CollectorRegistry()
        self._live = _Live(load, total_tokens)
        self._registry.register(self._live)
        self._request_s = {
            name: self._histogram(f"tgi_request_{name}", text, _SECONDS)
            for name, text in (
                ("duration", "Seconds of a request."),
                ("validation_duration", "Seconds until a request was in the queue."),
                ("queue_duration", "Seconds in the queue."),
                ("inference_duration", "Seconds from leaving the queue to the last token."),
                ("mean_time_per_token_duration", "Seconds of inference for each token."),
            )
        }
        self._generated_tokens = self._histogram("tgi_request_generated_tokens", "Tokens generated.", _TOKENS)
        self._input_length = self._histogram("tgi_request_input_length", "Tokens of the prompt.", _TOKENS)
        self._max_new_tokens = self._histogram("tgi_request_max_new_tokens", "Tokens asked for.", _TOKENS)
        self._inference_s = self._histogram("tgi_batch_inference_duration", "Seconds of a step.", _SECONDS, ["method"])
        self._forward_s = self._histogram(
            "tgi_batch_forward_duration", "Seconds of a step in the model.", _SECONDS, ["method"]
        )
        self._next_size = self._histogram("tgi_batch_next_size", "Sequences admitted together.", _SIZES)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: Iterable[str] = ()) -> Histogram:
        return Histogram(name, text, list(labels), buckets=buckets, registry=self._registry)

    def received(self) -> None:
        """Counts a request."""
        self._live.add("tgi_request_count")

    def failed(self, kind: FailureKind) -> None:
        """Counts a failure."""
        self._live.add("tgi_request_failure", ("err", kind))

    def queued(self, input_tokens: int, max_new_tokens: int) -> None:
        """Notes the size of a validated request."""
        self._input_length.observe(input_tokens)
        self._max_new_tokens.observe(max_new_tokens)

    def succeeded(self, received_ns: int, progress: Progress) -> None:
        """Notes the times of a generation that ended.

        Args:
            received_ns: Unix nanoseconds at which the request came.
            progress: of the ended generation.
        """
        self._live.add("tgi_request_success")
        started = progress.started_ns or progress.queued_ns
        ended = progress.ended_ns or started
        self._request_s["duration"].observe((ended - received_ns) * _NS)
        self._request_s["validation_duration"].observe(max(0, progress.queued_ns - received_ns) * _NS)
        self._request_s["queue_duration"].observe((started - progress.queued_ns) * _NS)
        self._request_s["inference_duration"].observe((ended - started) * _NS)
        self._request_s["mean_time_per_token_duration"].observe(
            (ended - started) * _NS / max(1, progress.generated_tokens)
        )
        self._generated_tokens.observe(progress.generated_tokens)

    def stepped(self, report: StepReport) -> None:
        """Notes a step of the model; called in the engine thread."""
        self._live.add("tgi_batch_inference_count", ("method", report.method))
        self._live.add("tgi_batch_inference_success", ("method", report.method))
        self._inference_s.labels(report.method).observe(report.total_s)
        self._forward_s.labels(report.method).observe(report.model_s)
        if report.admitted:
            self._next_size.observe(report.admitted)

    def text(self) -> bytes:
        """The exposition text for Prometheus."""
        return generate_latest(self._registry)

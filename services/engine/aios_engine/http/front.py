"""What the handlers share: the model once it is there, the settings, and the span of the request in hand."""

import secrets
import socket
import time
from typing import Final

from aiohttp import web

from aios_engine.backend import Load
from aios_engine.errors import UnhealthyError
from aios_engine.inference import Inference
from aios_engine.metrics import EngineMetrics
from aios_engine.settings import EngineSettings
from aios_engine.startup import Startup
from aios_kit.chat_template import ChatTemplate
from aios_kit.tracing import Hop, Tracing

COMPUTE_TYPE: Final = "cpu"


class Front:
    """One HTTP front; its inference appears when the model is loaded.

    Attributes:
        id: which engine this is, the same after a restart on the same host and port.
    """

    def __init__(self, settings: EngineSettings, startup: Startup, tracing: Tracing) -> None:
        self.settings = settings
        self.id = f"{socket.gethostname()}:{settings.port or secrets.token_hex(4)}"
        self.startup = startup
        self.tracing = tracing
        self.metrics = EngineMetrics(self._load, self._total_tokens)
        self._inference: Inference | None = None
        self._chat_template: ChatTemplate | None = None

    def open(self, inference: Inference, chat_template: ChatTemplate | None) -> None:
        """Begins to serve generations."""
        self._inference = inference
        self._chat_template = chat_template

    @property
    def inference(self) -> Inference:
        """What runs generations.

        Raises:
            UnhealthyError: the model is not loaded, or the engine has failed.
        """
        if self._inference is None:
            raise UnhealthyError(f"the model is not ready: {self.startup.line()}")
        if not self._inference.backend.healthy:
            raise UnhealthyError("unhealthy")
        return self._inference

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How conversations become prompts; None where the model has no template."""
        return self._chat_template

    def _load(self) -> Load:
        return Load(0, 0, 0) if self._inference is None else self._inference.backend.load

    def _total_tokens(self) -> int:
        if self._inference is None:
            return 0
        facts = self._inference.backend.facts
        return facts.kv_tokens


FRONT: Final = web.AppKey("front", Front)
HOP: Final = web.RequestKey("hop", Hop)


def front_of(request: web.Request) -> Front:
    """The front that serves a request."""
    return request.app[FRONT]


def timing_headers(received_ns: int, validated_ns: int, started_ns: int, ended_ns: int, tokens: int) -> dict[str, str]:
    """The `x-*-time` headers of a whole answer, in milliseconds, and `x-compute-time` in seconds.

    Args:
        received_ns: the request came.
        validated_ns: it was put into the queue.
        started_ns: it left the queue.
        ended_ns: its last token.
        tokens: generated.
    """

    def milliseconds(start: int, end: int) -> str:
        return str(max(0, end - start) // 1_000_000)

    total_ns = max(time.time_ns(), ended_ns) - received_ns
    return {
        "x-compute-type": COMPUTE_TYPE,
        "x-compute-time": str(total_ns / 1e9),
        "x-total-time": str(total_ns // 1_000_000),
        "x-validation-time": milliseconds(received_ns, validated_ns),
        "x-queue-time": milliseconds(validated_ns, started_ns),
        "x-inference-time": milliseconds(started_ns, ended_ns),
        "x-time-per-token": milliseconds(0, (ended_ns - started_ns) // max(1, tokens)),
        "x-generated-tokens": str(tokens),
    }

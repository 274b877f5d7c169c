"""Whether a service lives, is ready, and what it counts, over HTTP: `/healthz`, `/readyz`, `/metrics`."""

from collections.abc import Callable

import orjson
from aiohttp import web

from aios_kit.metrics import Metrics

NotReady = Callable[[], str | None]


class HealthServer:
    """Answers probes from the moment the process starts.

    `/healthz` is 200 while the event loop turns; `/readyz` is 200 when `not_ready()` returns None, else 503 with the
    reason it returns.
    """

    def __init__(self, metrics: Metrics, not_ready: NotReady) -> None:
        self._metrics = metrics
        self._not_ready = not_ready
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens and returns the port, which matters when 0 was asked for.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_text)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, reuse_address=True).start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        """Stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(body=b'{"status":"ok"}', content_type="application/json")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = self._not_ready()
        body = {"status": "ready"} if reason is None else {"status": "not ready", "reason": reason}
        return web.Response(
            body=orjson.dumps(body), status=200 if reason is None else 503, content_type="application/json"
        )

    async def _metrics_text(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

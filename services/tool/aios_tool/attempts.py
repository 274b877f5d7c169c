"""How one call is run: claimed first where it has effects, tried again where it may be, its answer checked."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson
from pydantic import JsonValue

from aios_kit import replies
from aios_kit.logs import Log
from aios_kit.tracing import Hop
from aios_proto import telemetry
from aios_proto.errors import AiosError, BusUnavailable, ToolLimitExceeded, ToolUnavailable
from aios_proto.headers import CallHeaders
from aios_proto.messages.tool import ToolCallResult, ToolSource
from aios_tool.core import effects
from aios_tool.core.breaker import Breaker, Breakers
from aios_tool.core.registry import Registry, Tool
from aios_tool.ports import Attempt, Before, Claimed, ClaimStore, NotStarted, OwnerLost, Progress, Runner
from aios_tool.settings import ToolSettings


class _Failed(Exception):
    """One attempt did not end well."""

    def __init__(self, failure: effects.Failure, error: AiosError) -> None:
        super().__init__(error.message)
        self.failure = failure
        self.error = error


@dataclass(slots=True, eq=False)
class Stop:
    """How far the end of one call has come.

    Attributes:
        cancelled: its caller has given it up; its task is cancelled then.
        settled: the tool has answered, or certainly failed: it is too late to cancel the call.
    """

    cancelled: bool = False
    settled: bool = False


class Attempts:
    """Runs calls that have passed the gate.

    Args:
        settings: limits.
        registry: looked at again before a tool is run again.
        runners: who runs tools, by source.
        claims: where calls with effects are claimed; only after the start.
    """

    def __init__(
        self,
        settings: ToolSettings,
        registry: Registry,
        runners: Mapping[ToolSource, Runner],
        claims: Callable[[], ClaimStore],
        log: Log,
    ) -> None:
        self._log = log
        self._settings = settings
        self._registry = registry
        self._runners = runners
        self._claims = claims
        self.breakers = Breakers(lambda: Breaker(settings.tool_breaker_failures, settings.tool_breaker_rest_s))

    async def run(
        self,
        headers: CallHeaders,
        tool: Tool,
        arguments: dict[str, JsonValue],
        progress: Progress,
        hop: Hop,
        stop: Stop,
    ) -> bytes:
        """The last frame of the call, where it succeeded, now or before.

        Raises:
            AiosError: why it failed, or that it was cancelled.
        """
        if not effects.has_effects(tool.spec):
            return await self._until_answered(headers, tool, arguments, progress, hop, None)
        claims = self._claims()
        claimed = await claims.claim(headers.key)
        if isinstance(claimed, Before):
            if claimed.frame is not None:
                return claimed.frame
            if not tool.spec.repeatable:
                raise effects.interrupted_before(tool.spec)
            taken = await claims.take_over(headers.key, claimed.revision)
            if taken is None:
                raise ToolUnavailable("another tool manager runs this call", retry_after_s=1)
            claimed = taken
        try:
            frame = await self._until_answered(headers, tool, arguments, progress, hop, claimed.revision)
        except (AiosError, asyncio.CancelledError) as caught:
            if isinstance(caught, AiosError):
                error = caught
            elif stop.cancelled:
                error = effects.cancelled(tool.spec)
            else:
                raise
            stop.settled = True
            await self._finish(headers, claimed, replies.failed(headers.id, error, trace_id=hop.trace_id))
            raise error from None
        stop.settled = True
        await self._finish(headers, claimed, frame)
        return frame

    async def _finish(self, headers: CallHeaders, claimed: Claimed, frame: bytes) -> None:
        try:
            await self._claims().finish(headers.key, claimed.revision, frame)
        except BusUnavailable as error:
            # The effect is there and the caller hears of it; who asks after a restart of ours is told "perhaps".
            self._log.warning("the end of a tool call could not be kept", syscall_id=headers.id, error=error.message)

    async def _until_answered(
        self,
        headers: CallHeaders,
        tool: Tool,
        arguments: dict[str, JsonValue],
        progress: Progress,
        hop: Hop,
        fencing_token: int | None,
    ) -> bytes:
        breaker, runs = self.breakers.of(tool.key), 0
        while True:
            runs += 1
            if wait_s := breaker.wait_s(time.monotonic()):
                raise ToolUnavailable(f"{tool.spec.name} failed too often and is left alone", retry_after_s=wait_s)
            timeout_s = min(tool.spec.timeout_s, _seconds_left(headers))
            attempt = Attempt(headers, tool, arguments, timeout_s, fencing_token)
            try:
                content = await self._once(attempt, progress, breaker)
            except _Failed as failed:
                if not effects.may_run_again(tool.spec, failed.failure, runs, retryable=failed.error.retryable):
                    raise failed.error from failed
                hop.event(f"run again after {failed.failure}")
                await asyncio.sleep(effects.pause_s(runs))
                # Its processes may have changed meanwhile.
                tool = self._registry.get(tool.key) or tool
                continue
            return self._done(headers, tool, content, runs, hop)

    async def _once(self, attempt: Attempt, progress: Progress, breaker: Breaker) -> JsonValue:
        tool = attempt.tool
        timeout = asyncio.timeout(attempt.timeout_s)
        failure: effects.Failure
        error: AiosError
        try:
            async with timeout:
                content = await self._runners[tool.record.source].run(attempt, progress)
            fault = None if tool.output_schema is None else tool.output_schema.check(content, "content")
            if fault is None:
                breaker.ended(time.monotonic(), well=True)
                return content
            failure, error = "invalid_output", effects.invalid_output(tool.spec, *fault)
        except NotStarted:
            failure, error = "not_started", effects.not_started(tool.spec.name)
        except OwnerLost:
            failure, error = "owner_lost", effects.owner_lost(tool.spec)
        except AiosError as said:
            failure, error = "said_no", said
        except TimeoutError:
            if not timeout.expired():
                breaker.abandoned()
                raise
            failure, error = "timeout", effects.timed_out(tool.spec, attempt.timeout_s)
        except BaseException:
            breaker.abandoned()
            raise
        breaker.ended(time.monotonic(), well=not effects.counts_against(failure, error))
        raise _Failed(failure, error)

    def _done(self, headers: CallHeaders, tool: Tool, content: JsonValue, runs: int, hop: Hop) -> bytes:
        limit = self._settings.tool_max_result_bytes
        size = len(orjson.dumps(content))
        if size > limit:
            raise ToolLimitExceeded(f"the answer of {tool.spec.name} has {size} bytes, at most {limit} are passed on")
        trusted = tool.record.source == "builtin" and tool.spec.name in TRUSTED
        taint = [] if trusted else [f"tool:{tool.spec.name}"]
        hop.set({telemetry.TAINT: ",".join(taint)})
        result = ToolCallResult(
            content=content,
            untrusted=not trusted,
            taint=taint,
            tool=tool.spec.name,
            version=tool.spec.version,
            attempts=runs,
        )
        return replies.done(headers.id, result.model_dump(mode="json"))


TRUSTED = frozenset({"calculator", "time"})
"""Built-in tools whose answers hold nothing but what they computed themselves."""


def _seconds_left(headers: CallHeaders) -> float:
    if headers.deadline_ms is None:
        return float("inf")
    return max(0.0, headers.deadline_ms / 1000 - time.time())

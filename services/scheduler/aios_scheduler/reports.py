"""What a worker's report means to the core."""

from typing import assert_never

from aios_proto.frames import Usage
from aios_proto.kernel import CallEnded, CallResult, CallReturned, WorkerBye, WorkerHello
from aios_scheduler.core.events import Event, ResultMade, RunEnded, RunReturned, WorkerLeft, WorkerSeen


def event_of(report: WorkerHello | WorkerBye | CallResult | CallEnded | CallReturned) -> Event:
    """The event to feed the core with."""
    worker = (report.pool, report.worker)
    match report:
        case WorkerHello():
            return WorkerSeen(
                worker,
                report.incarnation,
                report.model,
                report.in_flight_limit,
                report.ready,
                report.running,
                report.max_input_tokens,
                report.max_total_tokens,
                report.kv_tokens,
                report.can_preempt,
                report.engine_id,
            )
        case WorkerBye():
            return WorkerLeft(worker, report.incarnation)
        case CallResult():
            return ResultMade(report.key, worker)
        case CallEnded():
            usage = report.usage or Usage(prompt_tokens=0, completion_tokens=0)
            return RunEnded(
                report.key,
                worker,
                report.outcome == "done",
                report.code,
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.cached_tokens,
                report.tool,
            )
        case CallReturned():
            return RunReturned(
                report.key, worker, report.attempt, report.reason, report.message, report.retry_after_s, report.tokens
            )
        case _:
            assert_never(report)

"""What a caller gets from a service on a real bus, whatever the handler does."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import orjson
import pytest
from support.frame_inbox import KernelCaller
from support.nats_server import NatsServer
from support.otlp_sink import OtlpSink
from support.running_service import InProcess, running_in_process
from support.slow_service import SlowService

from aios_kit.service import Service
from aios_kit.settings import ServiceSettings
from aios_proto import subjects
from aios_proto.limits import BUS_MAX_PAYLOAD_BYTES

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
async def slow(shared_bus: NatsServer, settings_for: Callable[..., ServiceSettings]) -> AsyncIterator[SlowService]:
    service = SlowService(settings_for(shared_bus), concurrency=4)
    async with running_in_process(service.service):
        yield service


async def test_a_call_is_answered_with_its_result_under_its_id(slow: SlowService, caller: KernelCaller) -> None:
    frame = await caller.call("memory", "add", {"content": "hello"}, call_id="call-1")
    assert frame == {"type": "done", "id": "call-1", "result": {"memory_id": "hello"}}


async def test_an_empty_body_counts_as_no_fields(slow: SlowService, caller: KernelCaller) -> None:
    assert (await caller.call("memory", "pool.list", b""))["result"] == {"pools": []}


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"{not json", "request.malformed", "body"),
        (b"\xff\xfe\x00", "request.malformed", "body"),
        ([1, 2], "request.malformed", "body"),
        ({}, "request.invalid", "content"),
        ({"content": 7}, "request.invalid", "content"),
        ({"content": "x", "contnet": "y"}, "request.invalid", "contnet"),
        ({"content": "x", "tags": ["a", 1]}, "request.invalid", "tags.1"),
    ],
)
async def test_a_wrong_body_is_refused_by_the_name_of_its_field(
    slow: SlowService, caller: KernelCaller, body: object, code: str, field: str
) -> None:
    frame = await caller.call("memory", "add", body)
    assert (frame["error"]["code"], frame["error"]["field"]) == (code, field)
    assert frame["error"]["retryable"] is False
    assert slow.begun == 0


async def test_an_error_of_the_handler_reaches_the_caller_as_it_is(slow: SlowService, caller: KernelCaller) -> None:
    error = (await caller.call("memory", "add", {"content": "refuse"}))["error"]
    assert (error["code"], error["message"], error["field"]) == ("resource.conflict", "as you wish", "content")


async def test_an_unforeseen_failure_answers_internal_with_the_trace_and_the_service_lives_on(
    slow: SlowService, caller: KernelCaller
) -> None:
    error = (await caller.call("memory", "add", {"content": "raise"}, traceparent=SAMPLED, call_id="c1"))["error"]
    assert (error["code"], error["trace_id"], error["syscall_id"]) == ("internal", TRACE, "c1")
    assert "secret" not in orjson.dumps(error).decode()
    assert (await caller.call("memory", "add", {"content": "still here"}))["type"] == "done"


async def test_a_timeout_inside_the_handler_is_not_blamed_on_the_deadline(
    slow: SlowService, caller: KernelCaller
) -> None:
    assert (await caller.call("memory", "add", {"content": "timeout"}))["error"]["code"] == "internal"


async def test_work_that_outlasts_the_deadline_ends_with_it(slow: SlowService, caller: KernelCaller) -> None:
    started = time.monotonic()
    error = (await caller.call("memory", "add", {"content": "sleep 30"}, deadline_s=0.2))["error"]
    assert error["code"] == "deadline.exceeded"
    assert time.monotonic() - started < 10
    assert slow.at_once == 0


async def test_a_call_that_comes_after_its_deadline_is_not_begun(slow: SlowService, caller: KernelCaller) -> None:
    error = (await caller.call("memory", "add", {"content": "late"}, deadline_s=-1))["error"]
    assert error["code"] == "deadline.exceeded"
    assert slow.begun == 0


async def test_a_result_the_bus_cannot_carry_is_an_error_and_not_silence(
    slow: SlowService, caller: KernelCaller
) -> None:
    error = (await caller.call("memory", "add", {"content": f"huge {BUS_MAX_PAYLOAD_BYTES}"}))["error"]
    assert error["code"] == "internal"
    assert str(BUS_MAX_PAYLOAD_BYTES) in error["message"]
    assert (await caller.call("memory", "add", {"content": "x"}))["type"] == "done"


async def test_a_large_result_that_fits_arrives_whole(slow: SlowService, caller: KernelCaller) -> None:
    size = BUS_MAX_PAYLOAD_BYTES - 1000
    result = (await caller.call("memory", "add", {"content": f"huge {size}"}))["result"]
    assert len(result["memory_id"]) == size


async def test_a_slow_call_does_not_hold_up_a_quick_one(slow: SlowService, caller: KernelCaller) -> None:
    slow_reply = await caller.send("memory", "add", {"content": "hold"})
    assert (await caller.call("memory", "add", {"content": "quick"}))["type"] == "done"
    assert (await caller.call("memory", "pool.list"))["type"] == "done"
    assert caller.inbox.waiting(slow_reply) == 0
    slow.go_on.set()
    assert (await caller.inbox.until_end(slow_reply))[-1]["type"] == "done"


async def test_no_more_calls_run_at_once_than_allowed_and_all_are_answered(
    slow: SlowService, caller: KernelCaller
) -> None:
    replies = [await caller.send("memory", "add", {"content": "sleep 0.02"}) for _ in range(20)]
    frames = await asyncio.gather(*(caller.inbox.until_end(reply) for reply in replies))
    assert [frame[-1]["type"] for frame in frames] == ["done"] * 20
    assert slow.most_at_once == 4


async def test_a_message_without_headers_does_not_disturb_the_service(slow: SlowService, caller: KernelCaller) -> None:
    await caller.nc.publish(subjects.kernel("memory", "add"), b"{}")
    await caller.nc.publish(subjects.kernel("memory", "add"), b"{}", headers={"Aios-Id": "x", "Aios-Deadline": "soon"})
    assert (await caller.call("memory", "add", {"content": "x"}))["type"] == "done"


async def test_a_caller_without_an_inbox_costs_nothing(slow: SlowService, caller: KernelCaller) -> None:
    await caller.nc.publish(subjects.kernel("memory", "add"), b'{"content": "x"}', headers={"Aios-Id": "x"})
    assert (await caller.call("memory", "add", {"content": "y"}))["type"] == "done"


async def test_outcomes_are_counted(slow: SlowService, caller: KernelCaller) -> None:
    await caller.call("memory", "add", {"content": "x"})
    await caller.call("memory", "add", {"content": "refuse"})
    await caller.call("memory", "add", {"content": "after both are counted"})
    text = slow.service.metrics.text().decode()
    assert 'aios_calls_total{operation="memory.add",outcome="resource.conflict"} 1.0' in text
    assert 'aios_call_seconds_count{operation="memory.add"}' in text


async def test_replicas_share_the_calls_and_answer_each_once(
    shared_bus: NatsServer, settings_for: Callable[..., ServiceSettings], slow: SlowService, caller: KernelCaller
) -> None:
    second = SlowService(settings_for(shared_bus, instance="test-2"))
    async with running_in_process(second.service):
        replies = [await caller.send("memory", "add", {"content": f"note {n}"}) for n in range(60)]
        frames = await asyncio.gather(*(caller.inbox.until_end(reply) for reply in replies))
        assert sorted(frame[-1]["result"]["memory_id"] for frame in frames) == sorted(f"note {n}" for n in range(60))
        assert slow.begun + second.begun == 60
        assert slow.begun > 0
        assert second.begun > 0


async def test_each_call_leaves_a_span_below_its_callers(
    shared_bus: NatsServer, settings_for: Callable[..., ServiceSettings], caller: KernelCaller
) -> None:
    with OtlpSink() as sink:
        service = SlowService(settings_for(shared_bus, AIOS_OTLP_ENDPOINT=sink.endpoint))
        async with running_in_process(service.service):
            await caller.call("memory", "add", {"content": "refuse"}, traceparent=SAMPLED, call_id="c7")
            await caller.call("memory", "add", {"content": "x"}, traceparent=SAMPLED[:-1] + "0")
        (span,) = await sink.wait(lambda spans: len(spans) == 1)
    assert (span.trace_id, span.parent_id) == (TRACE, "b7ad6b7169203331")
    assert (span.service, span.name) == ("aios-memory", "memory.add")
    assert span.attributes["aios.syscall.id"] == "c7"
    assert span.attributes["aios.tenant"] == "acme"
    assert span.attributes["error.type"] == "resource.conflict"


def test_only_operations_of_the_table_can_be_served(
    shared_bus: NatsServer, settings_for: Callable[..., ServiceSettings]
) -> None:
    service = Service("memory", settings_for(shared_bus))
    with pytest.raises(ValueError, match=r"memory\.explode"):
        service.announce("memory", "explode")


async def test_heartbeats_name_what_is_served_and_the_last_one_says_goodbye(
    shared_bus: NatsServer, settings_for: Callable[..., ServiceSettings], caller: KernelCaller
) -> None:
    heard = await caller.nc.subscribe(subjects.presence("memory", "test-9"))
    async with running_in_process(SlowService(settings_for(shared_bus, instance="test-9")).service):
        first = orjson.loads((await heard.next_msg(timeout=10)).data)
        assert first == {
            "manager": "memory",
            "instance": "test-9",
            "operations": ["add", "pool.list"],
            "leaving": False,
        }
        assert orjson.loads((await heard.next_msg(timeout=10)).data) == first
    last = first
    while not last["leaving"]:
        last = orjson.loads((await heard.next_msg(timeout=10)).data)
    assert last["instance"] == "test-9"


async def test_a_start_that_fails_ends_the_process_with_the_cause(
    shared_bus: NatsServer, settings_for: Callable[..., ServiceSettings]
) -> None:
    service = Service("memory", settings_for(shared_bus))

    async def fail() -> None:
        raise ValueError("the store is missing")

    service.on_start(fail)
    running = InProcess(service)
    with pytest.raises(ExceptionGroup) as caught:
        await running.wait()
    assert caught.group_contains(ValueError, match="the store is missing")


async def test_a_service_is_not_ready_before_its_start_is_done_nor_against_its_own_condition(
    shared_bus: NatsServer, settings_for: Callable[..., ServiceSettings]
) -> None:
    service = Service("memory", settings_for(shared_bus))
    gate = asyncio.Event()
    reason: list[str | None] = ["the disk is full"]

    async def start() -> None:
        await gate.wait()

    service.on_start(start)
    service.ready_when(lambda: reason[0])
    async with running_in_process(service, wait_ready=False) as running:
        assert await running.wait_readiness(503) in ("starting", "waiting for the bus")
        gate.set()
        async with asyncio.timeout(10):
            while (await running.readiness())[1] != "the disk is full":
                await asyncio.sleep(0.01)
        reason[0] = None
        await running.wait_ready()

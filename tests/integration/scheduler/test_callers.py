"""What a caller can do with calls that are under way: ask again, attach, cancel, list."""

import asyncio

import pytest
from support.model_caller import ModelCaller
from support.running_service import InProcess
from support.scripted_worker import ScriptedWorker

pytestmark = pytest.mark.usefixtures("scheduler")


async def test_a_call_sent_twice_runs_once_and_answers_twice(caller: ModelCaller, worker: ScriptedWorker) -> None:
    first = await caller.model_call(durable=False)
    given = await worker.run()
    again = await caller.model_call(durable=False, call_id=first.id)
    await worker.wait(worker.attached)
    assert worker.attached == [{"key": first.key, "reply": again.reply, "text_offset": 0}]
    await worker.done(given)
    await caller.end(first)
    assert len(worker.given) == 1


async def test_a_durable_call_begins_before_the_queue_has_it_and_runs_once(
    caller: ModelCaller, worker: ScriptedWorker
) -> None:
    call = await caller.model_call()
    await worker.done(await worker.run())
    await caller.end(call)
    await caller.queue_is_empty()
    assert len(worker.given) == 1


async def test_the_queue_alone_is_enough(caller: ModelCaller, worker: ScriptedWorker) -> None:
    call = await caller.model_call(ahead=False)
    await worker.done(await worker.run())
    await caller.end(call)
    await caller.queue_is_empty()


async def test_a_call_sent_twice_while_it_waits_is_told_of_both_when_it_runs(
    caller: ModelCaller, worker: ScriptedWorker
) -> None:
    await caller.model_call()
    blocking = await worker.run()
    first = await caller.model_call(durable=False)
    again = await caller.model_call(durable=False, call_id=first.id)
    await caller.call("scheduler", "state")
    await worker.done(blocking)
    assert (await worker.run(1)).headers.reply == first.reply
    await worker.wait(worker.attached)
    assert worker.attached[0]["reply"] == again.reply


async def test_both_hear_of_an_error_in_the_queue(caller: ModelCaller, worker: ScriptedWorker) -> None:
    await caller.model_call()
    await worker.run()
    first = await caller.model_call(durable=False, deadline_s=1.5)
    again = await caller.model_call(durable=False, call_id=first.id)
    for call in (first, again):
        assert (await caller.error(call))["code"] == "deadline.exceeded"


async def test_a_volatile_call_that_has_ended_is_answered_by_its_worker_again(
    caller: ModelCaller, worker: ScriptedWorker
) -> None:
    first = await caller.model_call(durable=False)
    await worker.done(await worker.run())
    await caller.end(first)
    again = await caller.model_call(durable=False, call_id=first.id)
    await worker.wait(worker.attached)
    assert worker.attached[0]["reply"] == again.reply
    assert len(worker.given) == 1


async def test_a_volatile_call_whose_worker_is_gone_runs_again(caller: ModelCaller, worker: ScriptedWorker) -> None:
    first = await caller.model_call(durable=False)
    await worker.done(await worker.run())
    await caller.end(first)
    worker.incarnation = "restarted"
    await worker.hello()
    again = await caller.model_call(durable=False, call_id=first.id)
    await worker.done(await worker.run(1))
    assert (await caller.end(again))["type"] == "done"


async def test_attaching_to_a_running_call_reaches_its_worker(caller: ModelCaller, worker: ScriptedWorker) -> None:
    call = await caller.model_call()
    await worker.run()
    reply = await caller.send("syscall", "attach", {"id": call.id, "text_offset": 12})
    await worker.wait(worker.attached)
    assert worker.attached == [{"key": call.key, "reply": reply, "text_offset": 12}]


async def test_attaching_to_an_ended_call_gives_its_stored_result(caller: ModelCaller, worker: ScriptedWorker) -> None:
    call = await caller.model_call()
    await worker.done(await worker.run())
    done = await caller.end(call)
    await caller.queue_is_empty()
    assert await caller.call("syscall", "attach", {"id": call.id}) == done


async def test_attaching_to_a_refused_call_gives_its_error(caller: ModelCaller, worker: ScriptedWorker) -> None:
    for body in ({"prompt": "x", "model": "lama"}, {"prompt": 7}):
        call = await caller.model_call(body)
        error = await caller.error(call)
        frame = await caller.call("syscall", "attach", {"id": call.id})
        assert (frame["id"], frame["error"]) == (call.id, error)


async def test_attaching_to_a_call_that_is_just_arriving_waits_for_it(
    caller: ModelCaller, worker: ScriptedWorker
) -> None:
    reply = await caller.send("syscall", "attach", {"id": "soon"})
    call = await caller.model_call(call_id="soon")
    given = await worker.run()
    await worker.wait(worker.attached)
    assert worker.attached[0]["reply"] == reply
    await worker.done(given)
    assert (await caller.end(call))["type"] == "done"


async def test_attaching_to_nothing_is_an_error_under_the_attaching_calls_own_id(caller: ModelCaller) -> None:
    frame = await caller.call("syscall", "attach", {"id": "never"}, call_id="mine")
    assert (frame["id"], frame["error"]["code"], frame["error"]["field"]) == ("mine", "syscall.unknown", "id")
    frame = await caller.call("syscall", "attach", {"id": "no good!"})
    assert frame["error"]["code"] == "request.invalid"


async def test_nobody_reaches_another_agents_call(caller: ModelCaller, worker: ScriptedWorker) -> None:
    call = await caller.model_call()
    await worker.run()
    own_name, caller.agent = caller.agent, "mallory"
    caller.inbox.prefix = "_INBOX.acme.mallory"
    await caller.inbox.open()
    for operation in ("attach", "cancel"):
        frame = await caller.call("syscall", operation, {"id": call.id})
        assert frame["error"]["code"] == "syscall.unknown"
    assert (await caller.call("syscall", "list"))["result"]["calls"] == []
    caller.agent = own_name
    assert worker.cancelled == []
    assert worker.attached == []


async def test_cancelling_a_waiting_call_ends_it_at_once(caller: ModelCaller, worker: ScriptedWorker) -> None:
    await caller.model_call()
    await worker.run()
    call = await caller.model_call()
    await asyncio.sleep(0)
    assert (await caller.call("syscall", "cancel", {"id": call.id}))["result"] == {"id": call.id, "state": "queued"}
    assert (await caller.error(call))["code"] == "syscall.cancelled"
    assert (await caller.call("syscall", "cancel", {"id": call.id}))["result"]["state"] == "ended"


async def test_cancelling_a_running_call_tells_its_worker(caller: ModelCaller, worker: ScriptedWorker) -> None:
    call = await caller.model_call()
    given = await worker.run()
    assert (await caller.call("syscall", "cancel", {"id": call.id}))["result"]["state"] == "running"
    await worker.wait(worker.cancelled)
    assert worker.cancelled[0] == call.key
    await worker.done(given)
    await caller.queue_is_empty()


async def test_cancelling_a_call_that_is_just_arriving_is_not_lost(caller: ModelCaller, worker: ScriptedWorker) -> None:
    await caller.model_call()
    await worker.run()
    reply = await caller.send("syscall", "cancel", {"id": "soon"})
    call = await caller.model_call(call_id="soon")
    assert (await caller.error(call))["code"] == "syscall.cancelled"
    assert (await caller.inbox.until_end(reply))[-1]["type"] == "done"


async def test_cancelling_nothing_is_an_error(caller: ModelCaller) -> None:
    assert (await caller.call("syscall", "cancel", {"id": "never"}))["error"]["code"] == "syscall.unknown"


async def test_an_agents_open_calls_are_listed_the_oldest_first(caller: ModelCaller, worker: ScriptedWorker) -> None:
    first = await caller.model_call(priority=1)
    await worker.run()
    second = await caller.model_call(
        priority=9, operation="chat", body={"messages": [{"role": "user", "content": "x"}]}
    )
    await caller.call("scheduler", "state")
    calls = (await caller.call("syscall", "list"))["result"]["calls"]
    assert [(call["id"], call["operation"], call["state"], call.get("worker")) for call in calls] == [
        (first.id, "llm.complete", "running", "w1"),
        (second.id, "llm.chat", "queued", None),
    ]
    assert calls[1]["deadline_ms"] == second.deadline_ms
    assert len((await caller.call("syscall", "list", {"limit": 1}))["result"]["calls"]) == 1


async def test_an_answer_kept_by_a_dead_worker_is_sent_to_all_who_listen(
    caller: ModelCaller, worker: ScriptedWorker, scheduler: InProcess
) -> None:
    call = await caller.model_call()
    given = await worker.run()
    reply = await caller.send("syscall", "attach", {"id": call.id})
    await worker.wait(worker.attached)
    await worker.done(given, answer=False, report=False)
    await worker.goodbye()
    for inbox in (call.reply, reply):
        frame = (await caller.inbox.until_end(inbox))[-1]
        assert frame["result"]["text"] == "by w1"

"""What a caller reads while a worker runs its call."""

import asyncio
import json
from dataclasses import replace

import pytest
from support.running_service import InProcess
from support.scripted_scheduler import ScriptedScheduler
from support.tgi_stand_in import GenerateStream, TgiStandIn

from aios_proto.kernel import CallEnded, CallResult

pytestmark = pytest.mark.usefixtures("worker")


async def test_the_frames_of_an_answer_follow_on_each_other_and_the_result_is_their_sum(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    texts = ["Wörld", " ", "", "😀", *[f" t{n}" for n in range(40)]]
    tgi.script = lambda stream: stream.answer(*texts)
    call = await scheduler.run({"prompt": "Hi", "max_tokens": 50})
    *deltas, done = await scheduler.frames(call)
    tokens = characters = 0
    for delta in deltas:
        assert delta["type"] == "delta"
        assert (delta["offset"], delta["text_offset"]) == (tokens, characters)
        assert delta["tokens"] <= 8
        tokens, characters = tokens + delta["tokens"], characters + len(delta["text"])
    assert tokens == 44
    assert "".join(delta["text"] for delta in deltas) == "".join(texts)
    assert done["result"] == {"text": "".join(texts), "finish_reason": "stop", "model": "stand-in"}
    assert done["usage"] == {"prompt_tokens": 7, "completion_tokens": 44, "cached_tokens": 0}
    assert done["worker"] == "w1"
    assert 0 <= done["timings"]["first_token_ms"] <= done["timings"]["total_ms"]
    ended = await scheduler.heard(CallEnded)
    assert (ended.key, ended.attempt, ended.outcome) == (call.key, 1, "done")


@pytest.mark.parametrize(("awaited", "texts", "told"), [(True, 2, True), (False, 2, False), (True, 4000, False)])
async def test_a_short_result_is_told_at_once_where_other_calls_wait_for_it(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, *, awaited: bool, texts: int, told: bool
) -> None:
    tgi.script = lambda stream: stream.answer(*["word "] * texts)
    headers = replace(scheduler.headers(), awaited=awaited)
    call = await scheduler.run({"prompt": "Hi", "max_tokens": 900, "stream": False}, headers)
    done = (await scheduler.frames(call))[-1]
    await scheduler.heard(CallEnded)
    results = [report for report in scheduler.reports if isinstance(report, CallResult)]
    assert [(result.key, json.loads(result.frame)) for result in results] == ([(call.key, done)] if told else [])


async def test_the_first_token_does_not_wait_for_the_second(scheduler: ScriptedScheduler, tgi: TgiStandIn) -> None:
    more = asyncio.Event()

    async def script(stream: GenerateStream) -> None:
        await stream.token("first")
        await more.wait()
        await stream.last(" second")

    tgi.script = script
    call = await scheduler.run()
    assert (await scheduler.inbox.next(call.reply))["text"] == "first"
    more.set()
    assert (await scheduler.frames(call))[-1]["result"]["text"] == "first second"


async def test_a_token_that_is_followed_by_silence_is_sent_all_the_same(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    async def script(stream: GenerateStream) -> None:
        await stream.raw(
            b'data:{"index":1,"token":{"id":1,"text":"a","logprob":0,"special":false}}\n\n'
            b'data:{"index":2,"token":{"id":2,"text":"b","logprob":0,"special":false}}\n\n'
        )
        await stream.forever()

    tgi.script = script
    call = await scheduler.run()
    assert (await scheduler.inbox.next(call.reply))["text"] == "a"
    assert (await scheduler.inbox.next(call.reply))["text"] == "b"
    await scheduler.cancel(call)
    await scheduler.frames(call)


async def test_a_caller_who_wants_no_stream_gets_the_result_alone(scheduler: ScriptedScheduler) -> None:
    call = await scheduler.run({"prompt": "Hi", "stream": False})
    (done,) = await scheduler.frames(call)
    assert done["result"]["text"] == "Hello world"


async def test_events_cut_anywhere_with_either_line_end_and_comments_between_are_read(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    stream_text = (
        ': keep-alive\r\n\r\ndata:{"index":1,"token":{"id":1,"text":"hé","logprob":0,"special":false}}\r\n\r\n'
        'data: {"index":2,"token":{"id":2,"text":"!","logprob":0,"special":false},"generated_text":"hé!",'
        '"details":{"finish_reason":"length","generated_tokens":2,"seed":null,"input_length":1}}\r\n\r\n'
    ).encode()

    async def script(stream: GenerateStream) -> None:
        for at in range(0, len(stream_text), 7):
            await stream.raw(stream_text[at : at + 7])
            await asyncio.sleep(0)

    tgi.script = script
    done = (await scheduler.frames(await scheduler.run()))[-1]
    assert (done["result"]["text"], done["result"]["finish_reason"]) == ("hé!", "length")


async def test_special_tokens_are_counted_and_not_shown(scheduler: ScriptedScheduler, tgi: TgiStandIn) -> None:
    async def script(stream: GenerateStream) -> None:
        await stream.token("answer")
        await stream.last("</s>", special=True)

    tgi.script = script
    done = (await scheduler.frames(await scheduler.run()))[-1]
    assert done["result"]["text"] == "answer"
    assert done["usage"]["completion_tokens"] == 2


async def test_a_stop_sequence_never_reaches_the_caller(scheduler: ScriptedScheduler, tgi: TgiStandIn) -> None:
    tgi.script = lambda stream: stream.answer("one", "\n", "\nEN", "D", reason="stop_sequence")
    call = await scheduler.run({"prompt": "Hi", "stop": ["\n\nEND", "never"]})
    *deltas, done = await scheduler.frames(call)
    assert "".join(delta["text"] for delta in deltas) == done["result"]["text"] == "one"
    assert done["result"]["finish_reason"] == "stop"
    assert tgi.streams[0].parameters["stop"] == ["\n\nEND", "never"]


async def test_a_chat_is_rendered_by_the_engine_where_it_keeps_its_template_to_itself(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    call = await scheduler.run({"messages": turns, "max_tokens": 5}, scheduler.headers("chat"))
    done = (await scheduler.frames(call))[-1]
    assert done["result"]["message"] == {"role": "assistant", "content": "Hello world"}
    assert tgi.streams[0].body["inputs"] == "<system>Be kind.<user>Hi<assistant>"


async def test_the_engine_gets_what_the_caller_asked_for(scheduler: ScriptedScheduler, tgi: TgiStandIn) -> None:
    schema = {"type": "object"}
    body = {
        "prompt": "Hi",
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "seed": 11,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    }
    await scheduler.frames(await scheduler.run(body))
    assert tgi.streams[0].body == {
        "inputs": "Hi",
        "parameters": {
            "max_new_tokens": 9,
            "details": True,
            "do_sample": True,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 4,
            "seed": 11,
            "stop": [],
            "grammar": {"type": "json", "value": schema},
        },
    }


async def test_who_attaches_in_the_middle_gets_what_was_missed_and_then_the_rest(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    more = asyncio.Event()

    async def script(stream: GenerateStream) -> None:
        await stream.token("Hello")
        await more.wait()
        await stream.last(" world")

    tgi.script = script
    call = await scheduler.run()
    await scheduler.inbox.next(call.reply)
    second = await scheduler.attach(call, 2)
    missed = await scheduler.inbox.next(second)
    assert (missed["text_offset"], missed["text"]) == (2, "llo")
    more.set()
    rest = await scheduler.inbox.until_end(second)
    assert [frame.get("text") for frame in rest] == [" world", None]
    assert rest[-1]["id"] == call.id


async def test_a_second_run_of_an_ended_call_is_answered_from_memory(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    call = await scheduler.run()
    first = (await scheduler.frames(call))[-1]
    again = scheduler.headers(call_id=call.id, attempt=2)
    await scheduler.run(headers=again)
    assert await scheduler.frames(again) == [first]
    await scheduler.heard(CallEnded, lambda ended: ended.attempt == 2)
    late = await scheduler.attach(call)
    assert await scheduler.inbox.next(late) == first
    assert len(tgi.streams) == 1


async def test_a_second_run_of_a_running_call_joins_it(scheduler: ScriptedScheduler, tgi: TgiStandIn) -> None:
    more = asyncio.Event()

    async def script(stream: GenerateStream) -> None:
        await stream.token("Hello")
        await more.wait()
        await stream.last("!")

    tgi.script = script
    call = await scheduler.run()
    await scheduler.inbox.next(call.reply)
    again = await scheduler.run(headers=scheduler.headers(call_id=call.id, attempt=2))
    assert (await scheduler.inbox.next(again.reply))["text"] == "Hello"
    more.set()
    for headers in (call, again):
        assert (await scheduler.frames(headers))[-1]["result"]["text"] == "Hello!"
    assert (await scheduler.heard(CallEnded)).attempt == 2
    assert len(tgi.streams) == 1


async def test_asking_a_worker_for_a_call_it_does_not_know_is_answered(scheduler: ScriptedScheduler) -> None:
    inbox = await scheduler.attach(scheduler.headers())
    assert (await scheduler.inbox.next(inbox))["error"]["code"] == "syscall.unknown"


async def test_many_calls_at_once_do_not_mix_their_answers(scheduler: ScriptedScheduler, tgi: TgiStandIn) -> None:
    async def script(stream: GenerateStream) -> None:
        await stream.answer(*(f"{stream.body['inputs']}." for _ in range(20)))

    tgi.script = script
    calls = [await scheduler.run({"prompt": f"p{n}"}) for n in range(20)]
    for n, call in enumerate(calls):
        assert (await scheduler.frames(call))[-1]["result"]["text"] == f"p{n}." * 20


async def test_one_trace_goes_on_into_the_engine(scheduler: ScriptedScheduler, tgi: TgiStandIn) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await scheduler.frames(await scheduler.run(headers=scheduler.headers(traceparent=parent)))
    assert tgi.streams[0].headers["traceparent"] == parent


async def test_the_result_of_a_durable_call_is_stored_and_that_of_a_volatile_one_is_not(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    durable = await scheduler.run(headers=scheduler.headers(durable=True))
    volatile = await scheduler.run()
    done = (await scheduler.frames(durable))[-1]
    await scheduler.frames(volatile)
    for call in (durable, volatile):
        await scheduler.heard(CallEnded, lambda ended, key=call.key: ended.key == key)  # type: ignore[misc]
    bucket = await scheduler.nc.jetstream().key_value("AIOS_RESULTS")
    stored = await bucket.get(durable.key)
    assert stored.value is not None
    assert done["id"] in stored.value.decode()
    assert await bucket.keys() == [durable.key]

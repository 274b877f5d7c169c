"""Log probabilities as a caller reads them, and what is said where they cannot be had."""

import asyncio
from typing import Any

import orjson
import pytest
from support.running_service import InProcess
from support.scripted_scheduler import ScriptedScheduler
from support.tgi_stand_in import GenerateStream, TgiStandIn

from aios_proto.kernel import CallReturned

pytestmark = pytest.mark.usefixtures("worker")

ASKED = {"prompt": "Hi", "logprobs": True, "top_logprobs": 2}


def likeliest(stream: GenerateStream, text: str) -> list[dict[str, Any]]:
    return [
        {"id": stream.written + 1, "text": text, "logprob": -0.5, "special": False},
        {"id": 999, "text": "other", "logprob": -1.25, "special": False},
    ]


async def say(stream: GenerateStream, *texts: str, reason: str = "eos_token") -> None:
    """A whole answer, with the likeliest tokens of each place."""
    for text in texts[:-1]:
        await stream.token(text, top_tokens=likeliest(stream, text))
    await stream.last(texts[-1], reason, more={"top_tokens": likeliest(stream, texts[-1])})


def entry(text: str) -> dict[str, Any]:
    best = [{"token": text, "logprob": -0.5}, {"token": "other", "logprob": -1.25}]
    return {"token": text, "logprob": -0.5, "top_logprobs": best}


def told(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the frames, each at its place."""
    entries: list[dict[str, Any]] = []
    for frame in frames:
        if "logprobs" in frame:
            assert frame["logprobs_offset"] == len(entries)
            entries += frame["logprobs"]
    return entries


async def test_the_stream_and_the_result_have_one_entry_for_each_token(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    texts = ["Wörld", " ", "", "😀", *[f" t{n}" for n in range(40)]]
    tgi.script = lambda stream: say(stream, *texts)
    *deltas, done = await scheduler.frames(await scheduler.run(ASKED))
    assert done["result"]["logprobs"] == told(deltas) == [entry(text) for text in texts]
    assert len(texts) == done["usage"]["completion_tokens"]
    for delta in deltas:
        assert len(delta["logprobs"]) == delta["tokens"], "a frame has those of its tokens"
        assert delta["logprobs_offset"] == delta["offset"]
    assert tgi.streams[0].parameters["top_n_tokens"] == 2


async def test_without_the_likeliest_the_engine_is_asked_for_none(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    done = (await scheduler.frames(await scheduler.run({"prompt": "Hi", "logprobs": True, "stream": False})))[-1]
    assert done["result"]["logprobs"] == [{"token": text, "logprob": -0.5} for text in ("Hello", " world")]
    assert "top_n_tokens" not in tgi.streams[0].parameters


async def test_a_chat_has_them_too_and_the_token_that_ends_the_turn(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    async def script(stream: GenerateStream) -> None:
        await stream.token("Yes", top_tokens=likeliest(stream, "Yes"))
        await stream.last("</s>", special=True, more={"top_tokens": likeliest(stream, "</s>")})

    tgi.script = script
    body = {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 2}
    done = (await scheduler.frames(await scheduler.run(body, scheduler.headers("chat"))))[-1]
    assert done["result"]["message"]["content"] == "Yes"
    assert done["result"]["logprobs"] == [entry("Yes"), entry("</s>")]


async def test_of_a_stop_sequence_nothing_is_told(scheduler: ScriptedScheduler, tgi: TgiStandIn) -> None:
    tgi.script = lambda stream: say(stream, "one", "\n", "\nEN", "D", reason="stop_sequence")
    *deltas, done = await scheduler.frames(await scheduler.run(ASKED | {"stop": ["\n\nEND", "never"]}))
    assert done["result"]["logprobs"] == told(deltas) == [entry("one")]
    assert done["usage"]["completion_tokens"] == 4


async def test_a_token_that_is_cut_in_two_by_a_stop_sequence_is_told_of_whole(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    tgi.script = lambda stream: say(stream, "one", ", two", ".", reason="stop_sequence")
    *deltas, done = await scheduler.frames(await scheduler.run(ASKED | {"stop": ["two."]}))
    assert done["result"]["text"] == "one, "
    assert done["result"]["logprobs"] == told(deltas) == [entry("one"), entry(", two")]


async def test_who_attaches_in_the_middle_gets_those_that_were_sent_and_then_the_rest(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    more = asyncio.Event()

    async def script(stream: GenerateStream) -> None:
        await stream.token("Hello", top_tokens=likeliest(stream, "Hello"))
        await more.wait()
        await stream.last(" world", more={"top_tokens": likeliest(stream, " world")})

    tgi.script = script
    call = await scheduler.run(ASKED)
    await scheduler.inbox.next(call.reply)
    second = await scheduler.attach(call, 5)
    missed = await scheduler.inbox.next(second)
    assert (missed["text"], missed["logprobs_offset"], missed["logprobs"]) == ("", 0, [entry("Hello")])
    more.set()
    rest = await scheduler.inbox.until_end(second)
    assert told([missed, *rest[:-1]]) == rest[-1]["result"]["logprobs"] == [entry("Hello"), entry(" world")]


@pytest.mark.parametrize(
    "said",
    [
        "Input validation error: `top_n_tokens` must be >= 0 and <= 5. Given: 20",
        "Requested sample logprobs of 20, which is greater than max allowed: 5",
    ],
)
async def test_more_than_the_engine_tells_is_refused_by_the_callers_name_for_it(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, said: str
) -> None:
    async def script(stream: GenerateStream) -> None:
        stream.refuse(422, said, "validation")

    tgi.script = script
    (error,) = await scheduler.frames(await scheduler.run(ASKED | {"top_logprobs": 20}))
    assert (error["error"]["code"], error["error"]["field"]) == ("engine.refused", "top_logprobs")


async def test_an_engine_that_does_not_tell_the_likeliest_is_not_taken_at_its_silence(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    error = (await scheduler.frames(await scheduler.run(ASKED)))[-1]
    assert (error["error"]["code"], error["error"]["field"]) == ("engine.refused", "top_logprobs")


async def test_what_a_grammar_forbids_is_not_among_the_likeliest(scheduler: ScriptedScheduler, tgi: TgiStandIn) -> None:
    async def script(stream: GenerateStream) -> None:
        best = likeliest(stream, "a")
        best[1]["logprob"] = None  # TGI's way of writing minus infinity
        await stream.last("a", more={"top_tokens": best})

    tgi.script = script
    done = (await scheduler.frames(await scheduler.run(ASKED)))[-1]
    (told_of,) = done["result"]["logprobs"]
    assert told_of["top_logprobs"] == [{"token": "a", "logprob": -0.5}]


async def test_an_engine_that_keeps_log_probabilities_to_itself_is_told_so(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    async def script(stream: GenerateStream) -> None:
        await stream.raw(b'data:{"index":1,"token":{"id":1,"text":"a","logprob":null,"special":false}}\n\n')
        await stream.forever()

    tgi.script = script
    error = (await scheduler.frames(await scheduler.run({"prompt": "Hi", "logprobs": True})))[-1]
    assert (error["error"]["code"], error["error"]["field"]) == ("engine.refused", "logprobs")


async def test_nonsense_for_a_log_probability_is_the_engines_failure(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    async def script(stream: GenerateStream) -> None:
        await stream.raw(b'data:{"index":1,"token":{"id":1,"text":"a","logprob":"high","special":false}}\n\n')
        await stream.forever()

    tgi.script = script
    await scheduler.run({"prompt": "Hi", "logprobs": True})
    assert (await scheduler.heard(CallReturned)).reason == "failed"


async def test_more_than_a_message_carries_ends_the_call_with_the_name_of_the_field(
    scheduler: ScriptedScheduler, tgi: TgiStandIn
) -> None:
    async def script(stream: GenerateStream) -> None:
        for _ in range(40):
            await stream.token("x" * 10_000, top_tokens=likeliest(stream, "x" * 10_000))
        await stream.forever()

    tgi.script = script
    *_, error = await scheduler.frames(await scheduler.run(ASKED))
    assert (error["error"]["code"], error["error"]["field"]) == ("request.invalid", "top_logprobs")
    await asyncio.wait_for(tgi.streams[0].closed.wait(), 5)


async def test_with_tools_they_are_of_the_turn_as_the_model_wrote_it(
    scheduler: ScriptedScheduler, worker: InProcess, tgi: TgiStandIn
) -> None:
    turn = ['{"answer": ', '"It is done', ', END."', "}"]
    tgi.script = lambda stream: say(stream, *turn)
    function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": function}],
        "stop": ["END"],  # not of a turn that may be a call: half of it is of use to nobody
        "logprobs": True,
        "top_logprobs": 2,
    }
    (done,) = await scheduler.frames(await scheduler.run(body, scheduler.headers("chat")))
    assert done["result"]["message"]["content"] == orjson.loads("".join(turn))["answer"]
    assert done["result"]["logprobs"] == [entry(text) for text in turn]

"""One call's frames: their offsets, their order, and who gets them."""

import asyncio

import orjson
from hypothesis import given
from hypothesis import strategies as st

from aios_llm.coalescing import Coalescer
from aios_llm.run import Run
from aios_llm.stop_sequences import StopFilter
from aios_proto.headers import CallHeaders


class Wire:
    """Where frames go; `slow` lets other tasks in at every frame."""

    def __init__(self, slow: bool = False) -> None:
        self.sent: dict[str, list[dict[str, object]]] = {}
        self._slow = slow

    async def send(self, inbox: str, frame: bytes) -> None:
        if self._slow:
            await asyncio.sleep(0)
        self.sent.setdefault(inbox, []).append(orjson.loads(frame))
        if self._slow:
            await asyncio.sleep(0)

    def text(self, inbox: str) -> str:
        """What a reader has who drops repeats, as `Delta` says; a gap is an error."""
        said = ""
        for frame in self.sent.get(inbox, []):
            if frame["type"] == "delta":
                at, text = frame["text_offset"], frame["text"]
                assert isinstance(at, int)
                assert isinstance(text, str)
                assert at <= len(said), f"a gap at {len(said)}"
                said += text[len(said) - at :]
        return said


def make_run(wire: Wire, *, streaming: bool = True, stop: tuple[str, ...] = (), interval_s: float = 60) -> Run:
    headers = CallHeaders(id="c", tenant="t", agent="a", reply="caller")
    return Run(headers, streaming, wire.send, Coalescer(interval_s, 3), StopFilter(stop), ["caller"])


async def test_frames_follow_on_each_other_in_tokens_and_text() -> None:
    wire = Wire()
    run = make_run(wire)
    for text in ("Hé", "", "llo ", "😀", "!", " ", "end"):
        await run.add(text, 1)
    assert await run.finish_text() == "Héllo 😀! end"
    run.close()
    tokens = characters = 0
    for frame in wire.sent["caller"]:
        assert (frame["offset"], frame["text_offset"]) == (tokens, characters)
        assert isinstance(frame["tokens"], int)
        assert frame["tokens"] <= 3
        tokens += frame["tokens"]
        characters += len(str(frame["text"]))
    assert (tokens, characters) == (7, len("Héllo 😀! end"))
    assert wire.sent["caller"][0]["text"] == "Hé"


async def test_waiting_tokens_go_out_by_themselves_after_the_interval() -> None:
    wire = Wire()
    run = make_run(wire, interval_s=0.01)
    await run.add("a", 1)
    await run.add("b", 1)
    async with asyncio.timeout(5):
        while wire.text("caller") != "ab":
            await asyncio.sleep(0.001)
    run.close()


async def test_a_caller_who_does_not_want_a_stream_gets_none() -> None:
    wire = Wire()
    run = make_run(wire, streaming=False)
    await run.add("a", 1)
    assert await run.finish_text() == "a"
    await run.attach("second", 0)
    await run.send_last(b'{"type":"done"}')
    assert {inbox: [frame["type"] for frame in frames] for inbox, frames in wire.sent.items()} == {
        "caller": ["done"],
        "second": ["done"],
    }


async def test_who_attaches_gets_what_was_missed_and_then_the_rest() -> None:
    wire = Wire()
    run = make_run(wire, interval_s=0)
    for text in ("one ", "two "):
        await run.add(text, 1)
    await run.attach("second", 2)
    await run.add("three", 1)
    await run.send_last(b'{"type":"done"}')
    assert [frame.get("text") for frame in wire.sent["second"]] == ["e two ", "three", None]


async def test_an_offset_beyond_what_was_sent_gives_nothing_twice() -> None:
    wire = Wire()
    run = make_run(wire, interval_s=0)
    await run.add("abc", 1)
    await run.attach("second", 99)
    assert [(frame["text_offset"], frame["text"]) for frame in wire.sent["second"]] == [(3, "")]


async def test_who_attaches_after_the_end_gets_the_end() -> None:
    wire = Wire()
    run = make_run(wire, interval_s=0)
    await run.add("abc", 1)
    await run.send_last(b'{"type":"done"}')
    await run.attach("late", 0)
    assert [frame["type"] for frame in wire.sent["late"]] == ["delta", "done"]


async def test_attaching_twice_from_one_inbox_does_not_double_the_stream() -> None:
    wire = Wire()
    run = make_run(wire, interval_s=0)
    await run.attach("caller", 0)
    await run.add("abc", 1)
    assert [frame["text"] for frame in wire.sent["caller"]] == ["", "abc"]


@given(st.lists(st.sampled_from(["a", "bc", "", "😀", "attach"]), max_size=25))
async def test_whoever_attaches_at_any_moment_reads_the_same_text_and_one_end(steps: list[str]) -> None:
    wire = Wire(slow=True)
    run = make_run(wire, interval_s=0.0)
    attaching: list[asyncio.Task[None]] = []
    for number, step in enumerate(steps):
        if step == "attach":
            attaching.append(asyncio.create_task(run.attach(f"i{number}", 0)))
        else:
            await run.add(step, 1)
    text = await run.finish_text()
    ending = asyncio.create_task(run.send_last(b'{"type":"done"}'))
    attaching.append(asyncio.create_task(run.attach("last", 0)))
    await asyncio.gather(ending, *attaching)
    run.close()
    for inbox, frames in wire.sent.items():
        assert wire.text(inbox) == text, inbox
        assert [frame["type"] for frame in frames].count("done") == 1
        assert frames[-1]["type"] == "done"


async def test_a_run_is_cancelled_for_the_first_reason_and_not_once_it_ends() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    run = make_run(Wire())
    run.task = asyncio.create_task(forever())
    run.began = True
    run.cancel("cancelled")
    run.cancel("draining")
    await asyncio.wait((run.task,))
    assert run.task.cancelled()
    assert run.cancel_reason == "cancelled"

    ending = make_run(Wire())
    ending.ending = True
    ending.cancel("cancelled")
    assert ending.cancel_reason is None


async def test_times_are_counted_from_access_and_never_negative() -> None:
    wire = Wire()
    run = make_run(wire)
    run.headers = CallHeaders(id="c", times_us=(2_000_000, 1_000_000, 3_500_000))
    timings = run.timings()
    assert (timings.queued_ms, timings.scheduled_ms, timings.first_token_ms) == (0, 1500, None)

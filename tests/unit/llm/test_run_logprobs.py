"""Log probabilities of a call that is stopped, lost and gone on with: each token's once, in stream and result."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from aios_llm.checkpoint import Checkpoint, decode
from aios_llm.coalescing import Coalescer
from aios_llm.logprobs import Likelihood, Scored, Scores, scored
from aios_llm.ports import Continuation
from aios_llm.resume_point import at_word, candidates
from aios_llm.run import PREEMPTED, Origin, Run
from aios_llm.stop_sequences import StopFilter
from aios_proto.headers import CallHeaders

TEXTS = st.lists(st.sampled_from(["a", " b", "", "c d", "\n", " ", "é", "\n\nE"]), min_size=1, max_size=30)
STOPS = st.lists(st.sampled_from(["d\n", "\n\nE", "b b", "éé"]), max_size=2, unique=True)


class Reader:
    """Drops repeats by their offsets; a gap is an error, and so is a repeat that differs."""

    def __init__(self) -> None:
        self.text = ""
        self.entries: list[dict[str, Any]] = []
        self.frames = 0

    async def receive(self, inbox: str, frame: bytes) -> None:
        told = orjson.loads(frame)
        self.frames += 1
        at, text = told["text_offset"], told["text"]
        assert at <= len(self.text)
        self.text += text[len(self.text) - at :]
        entries = told.get("logprobs", [])
        if entries:
            start = told["logprobs_offset"]
            assert start <= len(self.entries), "a gap"
            known = self.entries[start : start + len(entries)]
            assert entries[: len(known)] == known, "a repeat that differs"
            self.entries += entries[len(known) :]


def begin(reader: Reader, stop: tuple[str, ...], asked: bool) -> Run:
    headers = CallHeaders(id="c", tenant="t", agent="a", reply="caller")
    scores = Scores(stop, 0) if asked else None
    run = Run(headers, True, reader.receive, Coalescer(60, 3), StopFilter(stop), ["caller"], scores=scores)
    run.origin = Origin("m", "f", "prompt", keep_prompt=False)
    return run


async def make(run: Run, tokens: list[Scored], end: int, *, ids: bool) -> None:
    """Has the engine make the tokens up to `end`, and look no further than a stop sequence."""
    for number in range(run.tokens, end):
        token = tokens[number]
        await run.add(token.token, 1, (number,) if ids else (), token if run.scores is not None else None)


def engines_tokens(texts: list[str], stop: list[str]) -> list[Scored]:
    """As many as an engine makes that ends with the token that completes a stop sequence."""
    made, text = [], ""
    for number, own in enumerate(texts):
        made.append(scored(Likelihood(own, -number / 16), [Likelihood(f"t{number}", -0.125)], 1))
        text += own
        if any(sequence in text for sequence in stop):
            break
    return made


async def undisturbed(tokens: list[Scored], stop: tuple[str, ...]) -> tuple[str, list[bytes]]:
    run = begin(Reader(), stop, asked=True)
    await make(run, tokens, len(tokens), ids=True)
    text = await run.finish_text()
    run.close()
    assert run.scores is not None
    entries, at = run.scores.entries(run.scores.certain), 0
    whole = "".join(token.token for token in tokens)
    for number, token in enumerate(tokens):  # those whose text begins in the answer, which a stop sequence cuts short
        assert (number < len(entries)) == (text == whole or at < len(text))
        at += len(token.token)
    assert entries == [token.json for token in tokens[: len(entries)]]
    return text, entries


@given(TEXTS, STOPS, st.booleans(), st.data())
async def test_however_often_a_call_is_cut_each_token_is_told_of_once_and_in_order(
    texts: list[str], stop: list[str], ids: bool, data: st.DataObject
) -> None:
    tokens, stops = engines_tokens(texts, stop), tuple(stop)
    text, entries = await undisturbed(tokens, stops)
    reader, checkpoint = Reader(), None
    for _ in range(data.draw(st.integers(0, 3), label="cuts")):
        run = begin(reader, stops, asked=True)
        await go_on(run, checkpoint, ids=ids, dropped=data.draw(st.integers(0, 2), label="dropped"))
        end = data.draw(st.integers(run.tokens, len(tokens) - 1 if len(tokens) > run.tokens else run.tokens))
        dies = data.draw(st.booleans(), label="dies")
        if dies:  # with what its last checkpoint says, and frames on their way
            await make(run, tokens, data.draw(st.integers(run.tokens, end)), ids=ids)
            checkpoint = stored(run) or checkpoint
            await make(run, tokens, end, ids=ids)
        else:
            await make(run, tokens, end, ids=ids)
            run.cancel_reason = PREEMPTED
            await run.flush()
            checkpoint = stored(run) or checkpoint
        run.close()
    last = begin(reader, stops, asked=True)
    await go_on(last, checkpoint, ids=ids, dropped=data.draw(st.integers(0, 2), label="dropped last"))
    await make(last, tokens, len(tokens), ids=ids)
    assert await last.finish_text() == text
    assert last.scores is not None
    assert last.scores.entries(last.scores.certain) == entries
    assert (reader.text, reader.entries) == (text, [orjson.loads(entry) for entry in entries])
    late = Reader()
    last.send = late.receive
    await last.attach("late", 0)
    last.close()
    assert (late.text, late.entries) == (reader.text, reader.entries)


def stored(run: Run) -> Checkpoint | None:
    """What a worker reads that goes on with it; None where nothing was made yet."""
    checkpoint = run.checkpoint()
    if checkpoint is None:
        return None
    read = decode(checkpoint.encode())
    assert read == checkpoint
    return read


async def go_on(run: Run, checkpoint: Checkpoint | None, *, ids: bool, dropped: int) -> None:
    if checkpoint is None:
        return
    made = checkpoint.made
    begun: Continuation = candidates(made)[min(dropped, made.tokens)] if ids else at_word(made)
    await run.go_on_from(checkpoint, begun)


@given(TEXTS, st.data())
async def test_who_does_not_ask_pays_nothing(texts: list[str], data: st.DataObject) -> None:
    tokens, reader = engines_tokens(texts, []), Reader()
    run = begin(reader, (), asked=False)
    await make(run, tokens, data.draw(st.integers(1, len(tokens))), ids=True)
    written = run.checkpoint()
    assert written is not None
    assert b"logprobs" not in written.encode()
    await run.flush()
    run.close()
    assert reader.entries == []
    assert reader.frames


async def test_a_call_whose_engine_keeps_some_to_itself_is_not_stopped_and_not_gone_on_with() -> None:
    run = begin(Reader(), (), asked=True)
    await run.add("a", 1, (), engines_tokens(["a"], [])[0])
    assert run.checkpoint() is not None
    await run.add("🦊", 3, (), engines_tokens(["🦊"], [])[0])
    run.preempt()
    run.close()
    assert run.checkpoint() is None
    assert run.cancel_reason is None


async def test_a_caller_who_goes_without_the_stream_loses_no_entry() -> None:
    tokens, reader = engines_tokens(["a", " b", " c"], []), Reader()
    run = begin(reader, (), asked=True)
    run.streaming = False
    await make(run, tokens, 3, ids=True)
    await run.finish_text()
    assert run.scores is not None
    assert run.scores.entries(run.scores.certain) == [token.json for token in tokens]
    assert reader.frames == 0

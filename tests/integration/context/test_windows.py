"""What a model call on a context is sent, and what becomes of what does not fit."""

import asyncio
from typing import Any

import pytest
from support.context_caller import ContextCaller, ScriptedLlm, StartContexts, said

from aios_proto.errors import EngineFailed, InvalidRequest, ManagerUnavailable
from aios_proto.messages.context import CompressResult, ContextInfo, ContextResult, WindowResult
from aios_proto.messages.llm import ChatMessage

pytestmark = pytest.mark.usefixtures("contexts")

TURN = "word " * 48  # fifty tokens with what the template adds


def texts(messages: list[ChatMessage]) -> list[str]:
    return [str(message.content) for message in messages]


async def long_talk(alice: ContextCaller, policy: str, turns: int = 640) -> None:
    """A conversation of 32 000 tokens on a window of 8 000, with a pinned fact at its beginning."""
    await alice.open("s:be kind", context="talk", policy=policy, window_tokens=8000)
    await alice.append("talk", "the code is 7431", pinned=True)
    await alice.append("talk", *(("a:" if n % 2 else "") + f"{n} {TURN}" for n in range(turns)))


async def window(alice: ContextCaller, *new: str, **body: Any) -> WindowResult:
    return await alice.call("window", WindowResult, context="talk", messages=said(*new), **body)


@pytest.mark.parametrize("policy", ["truncate", "sliding", "summarise"])
async def test_a_conversation_four_times_the_window_keeps_its_pinned_fact_and_its_newest_turns(
    alice: ContextCaller, llm: ScriptedLlm, policy: str
) -> None:
    llm.answering.clear()  # no summary yet: the window must not wait for it
    await long_talk(alice, policy)
    chosen = await window(alice, "what is the code?")
    assert chosen.tokens <= 8000
    assert chosen.left_out > 400
    sent = texts(chosen.messages)
    assert sent[0] == "s:be kind"
    assert sent[1] == "the code is 7431"
    assert sent[-1] == "what is the code?"
    assert sent[-2] == "Facts to remember:\n- the code is 7431"
    assert sent[-3].startswith("a:639 ")


async def test_a_pinned_turn_is_not_said_again_where_there_is_no_room_for_it(
    alice: ContextCaller, llm: ScriptedLlm
) -> None:
    await alice.open(context="talk")
    await alice.append("talk", "the code is 7431", "word " * 600, pinned=True)
    tight = await window(alice, "what is the code?", max_tokens=620)
    assert texts(tight.messages) == ["the code is 7431", "word " * 600, "what is the code?"]
    roomy = await window(alice, "what is the code?", max_tokens=650)
    assert texts(roomy.messages)[-2] == "Facts to remember:\n- the code is 7431"
    assert roomy.tokens == tight.tokens + 10


async def test_turns_are_counted_once_for_each_model(alice: ContextCaller, llm: ScriptedLlm) -> None:
    await long_talk(alice, "truncate", turns=20)
    await window(alice, "first")
    await window(alice, "second", model="scripted")
    before = sum(map(len, llm.counted))
    await window(alice, "third", model="scripted")
    assert sum(map(len, llm.counted)) == before + 1


async def test_the_policy_summarise_makes_its_summary_at_low_priority_and_records_it(
    alice: ContextCaller, llm: ScriptedLlm
) -> None:
    await long_talk(alice, "summarise")
    await window(alice, "hello")
    async with asyncio.timeout(10):
        while (await alice.call("get", ContextResult, context="talk")).turns == 642:
            await asyncio.sleep(0.01)
    assert set(llm.priorities) == {0}
    shown = await alice.call("get", ContextResult, context="talk")
    summaries = [(m, d) for m, d in zip(shown.messages, shown.details, strict=True) if d.summary_of is not None]
    assert len(summaries) == 1
    message, detail = summaries[0]
    assert detail.summary_of is not None
    assert message.content == "Summary of the conversation so far:\na short summary"
    chosen = await window(alice, "hello again")
    assert chosen.left_out == 0
    assert chosen.tokens < 0.75 * 8000
    sent = texts(chosen.messages)
    assert "the code is 7431" in sent
    assert any(text.startswith("Summary of") for text in sent)
    full = await alice.call("get", ContextResult, context="talk", full=True, skip=0)
    assert len(full.messages) == 643


async def test_compressing_says_what_it_cost_and_saved_and_does_it_once(alice: ContextCaller, llm: ScriptedLlm) -> None:
    await long_talk(alice, "truncate")
    done = await alice.call("compress", CompressResult, context="talk", target_tokens=4000, call_id="compress-1")
    assert done.before_tokens > 32_000
    assert done.after_tokens <= 4000
    assert done.summarised_turns > 500
    assert done.model_calls == len(llm.asked) >= 4
    assert done.spent_prompt_tokens > 0.9 * (done.before_tokens - done.after_tokens)
    assert done.spent_completion_tokens == 3 * done.model_calls
    again = await alice.call("compress", CompressResult, context="talk", target_tokens=4000, call_id="compress-1")
    assert again == done
    assert len(llm.asked) == done.model_calls
    assert "the code is 7431" in (await alice.texts("talk"))[:3]
    small = await alice.call("compress", CompressResult, context="talk", target_tokens=4000)
    assert small.before_tokens == small.after_tokens == done.after_tokens


async def test_a_second_summary_stands_for_the_first(alice: ContextCaller, llm: ScriptedLlm) -> None:
    await long_talk(alice, "truncate", turns=100)
    await alice.call("compress", CompressResult, context="talk", target_tokens=2000)
    llm.answer = lambda _: "the second summary"
    done = await alice.call("compress", CompressResult, context="talk", target_tokens=1000)
    assert done.after_tokens <= 1000
    assert any("a short summary" in str(body) for body in llm.asked)
    shown = await alice.texts("talk")
    assert [text for text in shown if str(text).startswith("Summary")] == [
        "Summary of the conversation so far:\nthe second summary"
    ]


async def test_turns_appended_while_a_summary_is_made_are_kept(alice: ContextCaller, llm: ScriptedLlm) -> None:
    await long_talk(alice, "truncate", turns=100)
    llm.answering.clear()
    compressing = asyncio.create_task(alice.call("compress", CompressResult, context="talk", target_tokens=2000))
    async with asyncio.timeout(10):
        while not llm.asked:
            await asyncio.sleep(0.01)
    await alice.append("talk", "meanwhile")
    llm.answering.set()
    await compressing
    assert (await alice.texts("talk"))[-1] == "meanwhile"


async def test_of_two_compressions_at_once_the_second_finds_the_work_done(
    alice: ContextCaller, llm: ScriptedLlm
) -> None:
    await long_talk(alice, "truncate", turns=100)
    first, second = await asyncio.gather(
        *(alice.call("compress", CompressResult, context="talk", target_tokens=2000) for _ in range(2))
    )
    assert sorted((first.model_calls, second.model_calls)) == [0, len(llm.asked)]
    assert first.after_tokens == second.after_tokens <= 2000


async def test_a_compression_that_another_replica_was_faster_with_is_made_on_what_that_left(
    alice: ContextCaller, llm: ScriptedLlm, start_contexts: StartContexts
) -> None:
    await long_talk(alice, "truncate", turns=100)
    llm.answering.clear()
    async with start_contexts(instance="other"):
        both = [
            asyncio.create_task(alice.call("compress", CompressResult, context="talk", target_tokens=2000))
            for _ in range(8)  # the queue group deals them out
        ]
        async with asyncio.timeout(10):
            while not llm.asked:
                await asyncio.sleep(0.01)
        llm.answering.set()
        results = await asyncio.gather(*both)
    assert {result.after_tokens for result in results} == {results[0].after_tokens}
    shown = [text for text in await alice.texts("talk") if str(text).startswith("Summary")]
    assert len(shown) == 1


async def test_a_call_run_again_sees_the_context_as_before_its_own_answer(
    alice: ContextCaller, llm: ScriptedLlm
) -> None:
    await alice.open("s:be kind", context="talk")
    first = await window(alice, "q", for_call="call-1")
    await alice.call("record", ContextInfo, context="talk", messages=said("q", "a:answer"), for_call="call-1")
    again = await window(alice, "q", for_call="call-1")
    assert texts(again.messages) == texts(first.messages) == ["s:be kind", "q"]
    assert texts((await window(alice, "next", for_call="call-2")).messages) == ["s:be kind", "q", "a:answer", "next"]


async def test_new_turns_too_long_for_the_window_are_an_error_that_names_them(
    alice: ContextCaller, llm: ScriptedLlm
) -> None:
    await alice.open("hello", context="talk", window_tokens=40)
    with pytest.raises(InvalidRequest) as caught:
        await window(alice, TURN)
    assert caught.value.field == "messages"


async def test_an_empty_summary_is_an_error_and_changes_nothing(alice: ContextCaller, llm: ScriptedLlm) -> None:
    await long_talk(alice, "truncate", turns=100)
    llm.answer = lambda _: "  "
    with pytest.raises(EngineFailed):
        await alice.call("compress", CompressResult, context="talk", target_tokens=2000)
    assert len(await alice.texts("talk")) == 102


async def test_without_a_worker_the_error_says_so(alice: ContextCaller) -> None:
    await alice.open("hello", context="talk")
    with pytest.raises(ManagerUnavailable):
        await window(alice, "q")

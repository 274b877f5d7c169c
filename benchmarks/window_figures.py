"""Whether facts pinned at the beginning of a conversation of four windows' length are still answered, by policy."""

import sys
from collections.abc import Sequence
from typing import Any

from conversation import fill, timed
from report import Bar, Report
from road import Road

from aios import Agent, Context
from aios_proto.messages.context import WindowPolicy

POLICIES: tuple[WindowPolicy, ...] = ("truncate", "sliding", "summarise")
FACTS = (
    ("The number of the blue door is 4711.", "What is the number of the blue door?", "4711"),
    ("The name of the black cat is Momo.", "What is the name of the black cat?", "Momo"),
    ("The train to Paris leaves at 9:45.", "When does the train to Paris leave?", "9:45"),
    ("The meeting on Monday is in room 308.", "In which room is the meeting on Monday?", "308"),
    ("The captain of the ship is Ingrid.", "Who is the captain of the ship?", "Ingrid"),
    ("The password of the old radio is tulip.", "What is the password of the old radio?", "tulip"),
)
"""As simple as the default model of 135 M parameters needs them: said, asked for, and part of a right answer."""


async def measure_windows(road: Road, tokens: int, window: int, policies: Sequence[WindowPolicy]) -> dict[str, Any]:
    """A conversation of so many tokens, whose prompts may have `window`."""
    found: dict[str, Any] = {}
    async with Agent(token=road.token, url=road.url) as agent:
        served = await agent.llm.models()
        print(f"model {served[0].model}, {served[0].max_total_tokens} tokens", file=sys.stderr)
        first = await agent.contexts.open(
            messages=[{"role": "system", "content": "You are a helpful assistant with a good memory."}],
            model=served[0].model,
            window_tokens=window,
        )
        await first.append([{"role": "user", "content": fact} for fact, _, _ in FACTS], pinned=True)
        total = await fill(first, tokens, max(2, min(80, tokens // 400)))
        for policy in policies:
            found[policy] = await ask(agent, first, policy, window, total)
            print(f"{policy}: {found[policy]}", file=sys.stderr)
    return {"tokens": total, "window": window, "model": served[0].model, "by_policy": found}


async def ask(agent: Agent, first: Context, policy: WindowPolicy, window: int, total: int) -> dict[str, Any]:
    """Asks for every fact under a policy, each time on a fork, so that no question sees the one before."""
    messages = (await first.get()).messages
    talk = await agent.contexts.open(policy=policy, window_tokens=window)
    await talk.append(messages[:1])
    await talk.append(messages[1 : 1 + len(FACTS)], pinned=True)
    for start in range(1 + len(FACTS), len(messages), 200):
        await talk.append(messages[start : start + 200])
    summary: dict[str, Any] = {}
    if policy == "summarise":  # the manager makes it by itself at three quarters of the window; here it is waited for
        took, made = await timed(talk.compress(window // 2, deadline_s=3000))
        text = next(
            message.content for message in (await talk.get()).messages if str(message.content).startswith("Summary")
        )
        summary = {"compress": {**made.model_dump(), "seconds": took / 1000, "summary": text}}
    planned = await talk.window(FACTS[0][1], deadline_s=300)
    sent = [message.content for message in planned.messages]
    answers: list[dict[str, Any]] = []
    for _, question, part in FACTS:
        fork = await talk.fork()
        took, reply = await timed(fork.chat(question, max_tokens=24, deadline_s=1500, stream=False))
        answer = reply.text.strip()
        assert reply.usage is not None
        answers.append(
            {
                "question": question,
                "answer": answer,
                "right": part.lower() in answer.lower(),
                "prompt_tokens": reply.usage.prompt_tokens,
                "cached_tokens": reply.usage.cached_tokens,
                "seconds": took / 1000,
            }
        )
        await fork.close()
    return {
        "conversation_tokens": total,
        "counted_tokens": planned.tokens,
        "left_out_turns": planned.left_out,
        "facts_in_place": all(fact in sent for fact, _, _ in FACTS),
        "most_prompt_tokens": max(answer["prompt_tokens"] for answer in answers),
        "answered": sum(answer["right"] for answer in answers),
        "answers": answers,
        **summary,
    }


def show_windows(report: Report, windows: dict[str, Any]) -> None:
    """Rows and bars."""
    window, by_policy = windows["window"], windows["by_policy"]
    for policy, found in by_policy.items():
        sent = f"{found['most_prompt_tokens']} of {found['conversation_tokens']} tokens sent"
        first = found["answers"][0]
        report.rows.append(
            (
                f"{policy}: {sent}; {found['answered']} of {len(FACTS)} pinned facts answered",
                f"{first['seconds']:.1f} s",
                "",
            )
        )
        report.bars += [
            Bar(f"{policy}: longest prompt", found["most_prompt_tokens"], window, "tokens"),
            Bar(f"{policy}: pinned facts answered", found["answered"], len(FACTS), "", at_most=False),
        ]
    in_place = sum(found["facts_in_place"] for found in by_policy.values())
    report.bars.append(
        Bar("policies that keep the pinned turns word for word", in_place, len(by_policy), "", at_most=False)
    )
    if "summarise" not in by_policy:
        return
    done = by_policy["summarise"]["compress"]
    saved = done["before_tokens"] - done["after_tokens"]
    cost = f"{done['spent_prompt_tokens']} read and {done['spent_completion_tokens']} written"
    report.rows.append(
        (f"compress: {saved} tokens saved in each later prompt, {cost} once", f"{done['seconds']:.1f} s", "")
    )

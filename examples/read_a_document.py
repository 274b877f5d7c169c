"""An agent that reads a document, asks about it at different priorities, changes its mind, and meets its limits.

    aios run examples/read_a_document.py [DOCUMENT]

It reads the document section by section, and asks each question of the section that shares the most words with it, as
an agent with a small model must.
"""

import asyncio
import re
import sys
import time
from pathlib import Path

from aios import AccessDenied, Agent, Call, ChatReply, DeadlineError, SyscallCancelled

DOCUMENT = Path(__file__).parent.parent / "docs/explanation/how-a-call-travels.md"
QUESTIONS = {
    5: "How long are answers kept for an agent that lost its connection?",
    9: "How long do later tokens wait for each other before they are sent to the agent?",
    2: "Which policy of the scheduler runs calls in the order in which they came?",
}
ANSWER_TOKENS = 40


def words(text: str) -> set[str]:
    """The longer words of a text."""
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def section_about(document: str, question: str) -> str:
    """The section of the document that shares the most words with the question."""
    return max(document.split("\n## "), key=lambda section: len(words(section) & words(question)))


def ask(agent: Agent, document: str, question: str, **options: int | float) -> Call[ChatReply]:
    """A question about the document; it is on its way when this returns."""
    prompt = f"{section_about(document, question)}\n\nAnswer from this text, in one sentence: {question}"
    return agent.llm.chat([{"role": "user", "content": prompt}], **options)  # type: ignore[arg-type]


async def read(question: str, priority: int, call: Call[ChatReply], begun: float) -> ChatReply:
    """Streams one answer."""
    first = None
    async for _ in call:
        first = first or time.monotonic() - begun
    reply = await call
    print(f"\n[priority {priority}] {question}\n  {reply.text.strip()}")
    if reply.usage is not None and reply.timings is not None:
        usage, timings = reply.usage, reply.timings
        print(
            f"  {usage.prompt_tokens} prompt tokens ({usage.cached_tokens} cached), {usage.completion_tokens} new;"
            f" queued {timings.queued_ms:.0f} ms, given to {reply.worker} at {timings.scheduled_ms:.0f} ms,"
            f" first token {timings.first_token_ms or 0:.0f} ms, total {timings.total_ms:.0f} ms"
        )
    if first is not None:
        print(f"  the agent saw the first token after {first:.2f} s")
    return reply


async def main() -> None:
    document = (Path(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENT).read_text()
    async with Agent() as agent:
        me = await agent.whoami()
        sections = document.count("\n## ") + 1
        print(f"I am {me.tenant}.{me.agent} of group {me.group}.", end=" ")
        print(f"The document has {len(document.encode())} bytes in {sections} sections.")

        begun = time.monotonic()
        calls = {
            priority: ask(agent, document, question, priority=priority, max_tokens=ANSWER_TOKENS)
            for priority, question in QUESTIONS.items()
        }
        replies = await asyncio.gather(
            *(read(QUESTIONS[priority], priority, call, begun) for priority, call in calls.items())
        )

        call = ask(agent, document, "Tell me everything that it says.", max_tokens=500)
        async for _ in call:
            await call.cancel()
            break
        try:
            await call
        except SyscallCancelled as error:
            print(f"\ncancelled after the first piece:  {error}")

        try:
            await ask(agent, document, "Tell me everything that it says.", max_tokens=500, deadline_s=0.2)
        except DeadlineError as error:
            print(f"a deadline of 0.2 seconds:        {error}")

        try:
            await agent.syscall("scheduler", "drain", {"worker": "llm-1"})
        except AccessDenied as error:
            print(f"what only an operator may do:     {error}")

        print(f"\nthe trace of the first question, call {replies[0].id}:")


asyncio.run(main())

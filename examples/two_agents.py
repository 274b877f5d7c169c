"""Two agents that share what they learn, one that may not see it, and a deed that waits for a human.

    WRITER_TOKEN=... STRANGER_TOKEN=... aios run examples/two_agents.py

The reader files a document, keeps notes on it in a shared pool, and talks about it in a context of its own. The writer
finds the notes, uses the reader's tool, and files a report. The stranger is refused. At last the reader wants to delete
the report for good: that waits until a human agrees (`aios approvals list`, `aios approvals approve ID`).
"""

import asyncio
import os
from pathlib import Path

from aios import AccessDenied, Agent, ApprovalDenied

DOCUMENT = Path(__file__).parent.parent / "docs/explanation/how-a-call-travels.md"
QUESTION = "How long is the result of a call kept?"


def say(who: str, what: str) -> None:
    print(f"{who:>8}: {what}", flush=True)


async def main() -> None:
    reader = Agent()
    writer = Agent(token=os.environ["WRITER_TOKEN"])
    stranger = Agent(token=os.environ["STRANGER_TOKEN"])

    @reader.tool(effects=["read_only"])
    def count_words(text: str) -> int:
        """Counts the words of a text."""
        return len(text.split())

    @reader.tool(effects=["irreversible"])
    async def destroy(path: str) -> str:
        """Deletes a file for good."""
        await reader.storage.delete(path)
        return f"{path} is gone"

    async with reader, writer, stranger:
        await learn(reader, writer)
        await write(writer)
        await pry(stranger)
        await let_a_human_decide(reader)


async def learn(reader: Agent, writer: Agent) -> None:
    """Storage, memory, context and model, from the agent that reads."""
    text = DOCUMENT.read_text()
    stored = await reader.storage.write("library/calls.md", text.encode())
    say("reader", f"filed library/calls.md as version {stored.version}")

    if "findings" not in {pool.pool for pool in await reader.memory.pools()}:
        await reader.memory.create_pool("findings")
    await reader.memory.grant_pool("findings", writer.name, "read")
    for section in text.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        await reader.memory.add(f"{title}. {' '.join(body.split())[:400]}", tags=["calls"], pool="findings")
    say("reader", f"keeps {text.count(chr(10) + '## ')} notes in the pool findings, and lets {writer.name} read them")

    context = await reader.contexts.open(window_tokens=600, policy="sliding")
    await context.append([{"role": "system", "content": "You answer in one short sentence."}], pinned=True)
    reply = await context.chat("What is a system call of an agent?", max_tokens=24)
    turns = (await context.get()).turns
    say("reader", f"asked the model in a context that now has {turns} turns: {reply.text.strip()!r}")
    await context.close()


async def write(writer: Agent) -> None:
    """Shared memory, another agent's tool, and storage, from the agent that writes."""
    found = await writer.memory.search(QUESTION, pool="findings", limit=1)
    note = found.memories[0].content
    say("writer", f"asked the pool {QUESTION!r} and found {note[:60]!r}...")
    words = await writer.tools.call("count_words", {"text": note})
    await writer.storage.write("report.txt", note.encode())
    versions = await writer.storage.versions("report.txt")
    say("writer", f"the reader's tool counts {words.content} words in it")
    say("writer", f"filed report.txt, which now has {len(versions)} versions")


async def pry(stranger: Agent) -> None:
    """What an agent without the grant gets."""
    try:
        await stranger.memory.search(QUESTION, pool="findings")
    except AccessDenied as error:
        say("stranger", f"was refused: {error}")


async def let_a_human_decide(reader: Agent) -> None:
    """An irreversible tool."""
    say("reader", "wants to destroy library/calls.md, which waits for a human")
    try:
        done = await reader.tools.call("destroy", {"path": "library/calls.md"}, deadline_s=120)
    except ApprovalDenied as error:
        say("reader", f"the human said no: {error}")
    else:
        say("reader", f"the human said yes: {done.content}")


asyncio.run(main())

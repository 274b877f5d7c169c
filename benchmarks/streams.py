"""One streamed model call as its caller sees it: what came when, and how it ended."""

import asyncio
import time
from bisect import bisect_left
from dataclasses import dataclass, field

from aios import Agent

PROMPT = "Write about the number {}:"
CALL_DEADLINE_S = 550


@dataclass
class Stream:
    """One call; times are Unix times in seconds.

    Attributes:
        number: what it is about.
        enough: characters after which it counts as begun.
        call_id: of the system call.
        text: its pieces so far.
        reply: the whole answer, from its reply.
        tokens: of the answer, by the engine's count.
        worker: the worker that ended it.
        times: when each piece came.
        lengths: characters there were with that piece.
        ended: when the reply or the error was there.
        error: what ended it, if not the reply.
        begun: set when there is enough, or when it has ended.
    """

    number: int
    enough: int = 1
    call_id: str = ""
    text: str = ""
    reply: str = ""
    tokens: int = 0
    worker: str = ""
    times: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    ended: float = 0.0
    error: str | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def length_at(self, moment: float) -> int:
        """Characters there were before that moment."""
        before = bisect_left(self.times, moment)
        return self.lengths[before - 1] if before else 0

    def next_after(self, moment: float) -> float:
        """When the first piece came from that moment on, or where none was left, the end."""
        return next((at for at in self.times if at >= moment), self.ended)


async def follow(agent: Agent, stream: Stream, tokens: int) -> None:
    """Makes the call, of so many tokens at most, and notes what comes; never raises for what becomes of it."""
    try:
        # A program of its own: the calls of one would all go to the worker that has its KV.
        with agent.run("stream", program=f"stream-{stream.number}-{time.time_ns()}"):
            call = agent.llm.complete(PROMPT.format(stream.number), max_tokens=tokens, deadline_s=CALL_DEADLINE_S)
            stream.call_id = call.id
            async for piece in call:
                stream.text += piece
                stream.times.append(time.time())
                stream.lengths.append(len(stream.text))
                if len(stream.text) >= stream.enough:
                    stream.begun.set()
            reply = await call
        stream.reply, stream.worker = reply.text, reply.worker or ""
        stream.tokens = reply.usage.completion_tokens if reply.usage is not None else 0
    except Exception as error:
        stream.error = f"{type(error).__name__}: {error}"
    finally:
        stream.ended = time.time()
        stream.begun.set()

"""A process that serves three tools and writes down each run: `python -m support.tool_owner <log> answers|hangs`."""

import asyncio
import sys
from pathlib import Path

from aios import Agent


async def main(log: Path, *, answers: bool) -> None:
    agent = Agent()

    async def run(name: str) -> str:
        with log.open("a") as file:
            file.write(name + "\n")
        print(name, flush=True)  # noqa: T201 (read by the test)
        if not answers:
            await asyncio.Event().wait()
        return "done"

    @agent.tool(effects=["read_only"])
    async def look() -> str:
        return await run("look")

    @agent.tool(effects=["idempotent"])
    async def keep() -> str:
        return await run("keep")

    @agent.tool
    async def act() -> str:
        return await run("act")

    async with agent:
        print("serving", flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), answers=sys.argv[2] == "answers"))

"""How far a real model gets with ten small tasks that need tools; and whether every call it asks for is legal.

    python benchmarks/tool_tasks.py                         # the default model
    python benchmarks/tool_tasks.py --model larger          # one of half a billion parameters, see larger_model.py
    python benchmarks/tool_tasks.py --model model.gguf      # another one
    python benchmarks/tool_tasks.py --tasks 2 --check

The tasks are those of `tests/support/tool_tasks.py`. The answers are held to a JSON schema, so a call that does not fit
its tool's schema can only be one that was cut off. Every transcript goes into `results/tool-tasks-<model>.json`.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from jsonschema import Draft202012Validator
from larger_model import larger_model
from report import Bar, Report, read_options
from road import Road, running_road
from support.tool_tasks import TASKS, Task, World, declare

from aios import Agent, AiosError, ToolTalk

MAX_STEPS = 5
MAX_TOKENS = 160
DEADLINE_S = 300.0


async def attempt(road: Road, task: Task) -> dict[str, Any]:
    """One task, in a world of its own."""
    world, begun = World(), time.perf_counter()
    async with Agent(token=road.token, url=road.url) as agent:
        declare(agent, world)
        await agent.tools.serve()
        schemas = {tool.name: Draft202012Validator(tool.input_schema) for tool in await agent.tools.list()}
        try:
            talk: ToolTalk | None = await agent.chat_with_tools(
                task.prompt,
                tools=task.tools,
                tool_choice="required",
                output=task.output,
                max_steps=MAX_STEPS,
                max_tokens=MAX_TOKENS,
                deadline_s=DEADLINE_S,
            )
            failure = ""
        except AiosError as error:
            talk, failure = None, str(error)
    steps = talk.steps if talk is not None else ()
    uses = [use for step in steps for use in step.uses]
    illegal = [use for use in uses if use.name not in schemas or not schemas[use.name].is_valid(use.arguments)]
    return {
        "task": task.name,
        "solved": talk is not None and talk.answered and task.solved(talk.answer, world),
        "answer": str(talk.answer) if talk is not None else failure,
        "steps": len(steps),
        "calls": len(uses),
        "illegal_calls": len(illegal),
        "cut_off": sum(bool(step.fault) for step in steps),
        "seconds": round(time.perf_counter() - begun, 1),
        "transcript": [message.model_dump(exclude_none=True) for message in talk.messages] if talk is not None else [],
    }


async def attempt_all(road: Road, tasks: tuple[Task, ...]) -> list[dict[str, Any]]:
    return [await attempt(road, task) for task in tasks]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="path, hub name, or `larger`; by default the engine's own")
    parser.add_argument("--tasks", type=int, default=len(TASKS), help="how many of the ten")
    parser.add_argument("--at-least", type=int, default=0, help="tasks that must be solved")
    options = read_options(parser, naming=["model"])
    model = str(larger_model()) if options.model == "larger" else options.model
    with running_road(*(("--model", model) if model else ())) as road:
        found = asyncio.run(attempt_all(road, TASKS[: options.tasks]))
    label = Path(model).stem.lower() if model else "default-model"
    report = Report(f"tool-tasks-{label}", "Ten small tasks with tools", ("task", "solved", "steps", "calls", "answer"))
    for task in found:
        solved = "yes" if task["solved"] else "no"
        report.rows.append((task["task"], solved, str(task["steps"]), str(task["calls"]), task["answer"][:60]))
    report.bars += [
        Bar("calls that are not legal", sum(task["illegal_calls"] for task in found), 0, "calls"),
        Bar("tasks solved", sum(task["solved"] for task in found), options.at_least, "tasks", at_most=False),
    ]
    report.figures = {"model": label, "tasks": found}
    return report.finish(options)


if __name__ == "__main__":
    raise SystemExit(main())

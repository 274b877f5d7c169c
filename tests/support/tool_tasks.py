"""Ten small tasks for an agent with tools: what is asked, the tools, the turns of a model that solves it, the check.

The tools hold their state in a world that is made anew for each task.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, Field

from aios import Agent, ToolFailed


@dataclass
class World:
    """What the tools of one task see and change."""

    notes: dict[str, str] = field(default_factory=lambda: {"shopping": "milk, bread", "work": "call Ada"})
    stock: dict[str, int] = field(default_factory=lambda: {"apple": 5, "pear": 0, "plum": 12})
    sent: list[tuple[str, str]] = field(default_factory=list)
    door: str = "open"
    tries: int = 0


Fruit = Annotated[str, Field(description="its name in the singular, such as cherry")]


class City(BaseModel):
    """A structured answer."""

    name: str
    degrees: int


WEATHER = {"Oslo": 3, "Rome": 21, "Lima": 17}
PRICES = {"apple": 2, "pear": 3, "plum": 1}
PHONES = {"Ada": "555-0101", "Alan": "555-0102"}


def declare(agent: Agent, world: World) -> None:
    """Serves the tools of all tasks."""

    @agent.tool(effects=["read_only"])
    async def weather(city: str) -> int:
        """Tells how many degrees it has in a city."""
        if city not in WEATHER:
            raise ToolFailed(f"no weather for {city!r}; there is some for {', '.join(WEATHER)}")
        return WEATHER[city]

    @agent.tool(effects=["read_only"])
    async def stock(fruit: Fruit) -> int:
        """Tells how many pieces of a fruit are there."""
        return world.stock.get(fruit, 0)

    @agent.tool(effects=["read_only"])
    async def price(fruit: Fruit) -> int:
        """Tells what one piece of a fruit costs."""
        return PRICES[fruit]

    @agent.tool(effects=["read_only"])
    async def phone(name: str) -> str:
        """Looks a phone number up."""
        return PHONES[name]

    @agent.tool(effects=["read_only"])
    async def read_note(title: str) -> str:
        """Reads a note."""
        return world.notes[title]

    @agent.tool(effects=["idempotent"], writes=["note:{title}"])
    async def write_note(title: str, text: str) -> str:
        """Replaces a note's whole text; read it first to keep what it holds."""
        world.notes[title] = text
        return "written"

    @agent.tool
    async def send(to: Annotated[str, Field(description="phone number, such as 555-0100")], text: str) -> str:
        """Sends a message to a phone number."""
        world.sent.append((to, text))
        return "sent"

    @agent.tool
    async def close_door() -> str:
        """Closes the door."""
        world.door = "closed"
        return "the door is closed"

    @agent.tool(effects=["read_only"], retries=2)
    async def sensor() -> int:
        """Reads a sensor that often fails."""
        world.tries += 1
        if world.tries < 3:
            raise ToolFailed("no reading", retryable=True)
        return 7


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: of its transcript.
        prompt: what the agent is asked.
        tools: what it may use.
        script: the turns of a model that solves it.
        solved: whether the answer and the world are right.
        output: type of the answer, where it is not a text.
    """

    name: str
    prompt: str
    tools: tuple[str, ...]
    script: tuple[str, ...]
    solved: Callable[[object, World], bool]
    output: type[BaseModel] | None = None


def says(*parts: str) -> Callable[[object, World], bool]:
    """An answer that holds all of these."""
    return lambda answer, _: all(part in str(answer) for part in parts)


TASKS = (
    Task(
        "arithmetic",
        "What is 23 * 19 + 4? Use the calculator.",
        ("calculator",),
        ('{"calls":[{"tool":"calculator","arguments":{"expression":"23 * 19 + 4"}}]}', '{"answer":"441"}'),
        says("441"),
    ),
    Task(
        "one-lookup",
        "How many degrees does it have in Rome?",
        ("weather",),
        ('{"calls":[{"tool":"weather","arguments":{"city":"Rome"}}]}', '{"answer":"21 degrees"}'),
        says("21"),
    ),
    Task(
        "parallel-lookups",
        "Which is the warmest of Oslo, Rome and Lima?",
        ("weather",),
        (
            '{"calls":[{"tool":"weather","arguments":{"city":"Oslo"}},{"tool":"weather","arguments":{"city":"Rome"}},'
            '{"tool":"weather","arguments":{"city":"Lima"}}]}',
            '{"answer":"Rome"}',
        ),
        says("Rome"),
    ),
    Task(
        "two-steps",
        "What do all plums in stock cost together?",
        ("stock", "price", "calculator"),
        (
            '{"calls":[{"tool":"stock","arguments":{"fruit":"plum"}},{"tool":"price","arguments":{"fruit":"plum"}}]}',
            '{"calls":[{"tool":"calculator","arguments":{"expression":"12 * 1"}}]}',
            '{"answer":"12"}',
        ),
        says("12"),
    ),
    Task(
        "act",
        "Close the door.",
        ("close_door",),
        ('```json\n{"tool": "close_door", "arguments": {}}\n```', '{"answer":"The door is closed."}'),
        lambda _, world: world.door == "closed",
    ),
    Task(
        "look-up-and-send",
        "Send Ada the text: hello",
        ("phone", "send"),
        (
            '<tool_call>{"name": "phone", "arguments": {"name": "Ada"}}</tool_call>',
            '{"calls":[{"tool":"send","arguments":{"to":"555-0101","text":"hello"}}]}',
            "I have sent it.",
        ),
        lambda _, world: world.sent == [("555-0101", "hello")],
    ),
    Task(
        "read-and-write",
        "Add eggs to the note called shopping.",
        ("read_note", "write_note"),
        (
            '{"calls":[{"tool":"read_note","arguments":{"title":"shopping"}}]}',
            '{"calls":[{"tool":"write_note","arguments":{"title":"shopping","text":"milk, bread, eggs"}}]}',
            '{"answer":"done"}',
        ),
        lambda _, world: all(part in world.notes["shopping"] for part in ("milk", "bread", "eggs")),
    ),
    Task(
        "after-an-error",
        "How many degrees does it have in the capital of Italy?",
        ("weather",),
        (
            '{"calls":[{"tool":"weather","arguments":{"city":"Roma"}}]}',
            '{"calls":[{"tool":"weather","arguments":{"city":"Rome"}}]}',
            '{"answer":"21"}',
        ),
        says("21"),
    ),
    Task(
        "structured",
        "Which of Oslo and Lima is warmer, and how many degrees does it have?",
        ("weather",),
        (
            '{"calls":[{"tool":"weather","arguments":{"city":"Oslo"}},{"tool":"weather","arguments":{"city":"Lima"}}]}',
            '{"answer":{"name":"Lima","degrees":17}}',
        ),
        lambda answer, _: answer == City(name="Lima", degrees=17),
        City,
    ),
    Task(
        "flaky-tool",
        "What does the sensor read?",
        ("sensor",),
        ('{"calls":[{"tool":"sensor","arguments":{}}]}', '{"answer":"7"}'),
        lambda answer, world: "7" in str(answer) and world.tries == 3,
    ),
)

"""What is simulated: programs of calls, and what a scheduling strategy sees of them and may do."""

from dataclasses import dataclass, field
from typing import Protocol

from aios_engine.emulator.batcher import Batcher


@dataclass(slots=True)
class CallSpec:
    """One model call of a program.

    Attributes:
        index: its place in the program.
        path: keys of the prompt's segments, each standing for the prompt up to its end.
        sizes: tokens of the segments.
        output_tokens: tokens it will generate; only the engine and the oracle know.
        max_tokens: what the agent allows.
        after: indices of the calls whose results it needs.
        gap_s: time between the last of those results and the call: the tool's, or the user's.
        tool: what the *answer* asks for; empty where it is for the user.
        priority: 0 to 9.
        deadline_s: the whole answer is wanted within this time of arrival.
        first_token_s: the first token is wanted within this time.
    """

    index: int
    path: tuple[object, ...]
    sizes: tuple[int, ...]
    output_tokens: int
    max_tokens: int
    after: tuple[int, ...] = ()
    gap_s: float = 0.0
    tool: str = ""
    priority: int = 5
    deadline_s: float | None = None
    first_token_s: float | None = None

    @property
    def prompt_tokens(self) -> int:
        return sum(self.sizes)


@dataclass(slots=True)
class ProgramSpec:
    """One agent run."""

    name: str
    tenant: str
    agent: str
    arrival: float
    calls: list[CallSpec]


@dataclass(slots=True, eq=False)
class SimCall:
    """A call under way."""

    key: str
    program: ProgramSpec
    spec: CallSpec
    arrived: float
    size_bytes: int
    made: int = 0
    worker: int | None = None
    dispatched: float = 0.0
    first_token_at: float | None = None
    ended_at: float | None = None
    refused: bool = False
    cached_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """As the engine sees it now: what was made before a preemption is prompt."""
        return self.spec.prompt_tokens + self.made


@dataclass(frozen=True, slots=True)
class Start:
    call: SimCall
    worker: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Take a running call off its engine; it comes back with `stopped`."""

    call: SimCall


@dataclass(frozen=True, slots=True)
class Drop:
    """The call is refused."""

    call: SimCall


Order = Start | Stop | Drop


@dataclass(slots=True)
class Fleet:
    """The engines, as a strategy may look at them."""

    engines: list[Batcher] = field(default_factory=list)
    now: float = 0.0

    def tokens_of(self, call: SimCall) -> int:
        """Tokens a running call has made since it was last started."""
        assert call.worker is not None
        return self.engines[call.worker].tokens_of(call.key, self.now)


class Strategy(Protocol):
    """A scheduling policy under test."""

    submits_graphs: bool
    """Whether it takes the calls of a graph at once, with their dependencies."""

    def arrived(self, call: SimCall, now: float) -> list[Order]: ...

    def first_token(self, call: SimCall, now: float) -> list[Order]: ...

    def ended(self, call: SimCall, now: float) -> list[Order]: ...

    def stopped(self, call: SimCall, now: float) -> list[Order]: ...

    def tick(self, now: float) -> list[Order]: ...

    def next_wake(self, now: float) -> float | None: ...

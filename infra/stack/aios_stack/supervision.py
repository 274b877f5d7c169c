"""Which process is started, restarted, stopped or given up when: decisions, without clock or processes.

A process starts when everything it needs is ready. One that dies is started again after a pause that doubles with each
death and is forgotten after a while of health. One that never became ready is given up after a number of attempts, so
that a wrong setting is reported and not repeated for ever. Stopping goes the other way round: a process is asked to end
when all that need or use it have ended, and killed when it does not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How patient the supervisor is.

    Attributes:
        first_pause_s: pause after the first death.
        longest_pause_s: the doubling ends here.
        healthy_after_s: after being ready that long, earlier deaths are forgotten.
        attempts: deaths before ever being ready after which the process is given up.
    """

    first_pause_s: float = 0.25
    longest_pause_s: float = 10.0
    healthy_after_s: float = 30.0
    attempts: int = 4

    def pause_s(self, deaths: int) -> float:
        """Seconds between the `deaths`-th death in a row (from 1) and the next start."""
        return float(min(self.longest_pause_s, self.first_pause_s * 2 ** (min(deaths, 32) - 1)))


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """What the supervisor has to know of one process.

    Attributes:
        name: unique.
        needs: processes that must be ready before this one starts.
        uses: processes this one talks to when they are there; it may start before them but must end before them.
        start_timeout_s: seconds from start to readiness before it is killed and counted as dead.
        stop_timeout_s: seconds from SIGTERM to SIGKILL.
        restart: patience with its deaths.
    """

    name: str
    needs: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    start_timeout_s: float = 30.0
    stop_timeout_s: float = 12.0
    restart: RestartPolicy = RestartPolicy()


class State(StrEnum):
    """Where a process is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    PAUSED = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class BecameReady:
    """The process answers its readiness probe."""

    name: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The process ended; `code` is negative for a signal."""

    name: str
    code: int


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing but that the time asked for by `WakeAt` has come."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Everything is to end."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start this process."""

    name: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask this process to end (SIGTERM)."""

    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End this process at once (SIGKILL)."""

    name: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `TimePassed` at this time; replaces an earlier wish."""

    at_s: float


Event = BecameReady | Exited | TimePassed | StopAsked
Command = Start | Terminate | Kill | WakeAt


@dataclass(slots=True)
class ProcessStatus:
    """What is known of one process.

    Attributes:
        state: where it is in its life.
        since_s: when it came into that state.
        restarts: how often it was started again.
        deaths: deaths in a row.
        due_s: when its pause, start or stop timeout ends.
        was_ready: whether it ever became ready.
        last_exit: how it ended last.
    """

    state: State = State.WAITING
    since_s: float = 0.0
    restarts: int = 0
    deaths: int = 0
    due_s: float | None = None
    was_ready: bool = False
    last_exit: int | None = None
    killed: bool = False

    def enter(self, state: State, now_s: float, timeout_s: float | None = None) -> None:
        """Comes into a state, with a time limit where there is one."""
        self.state = state
        self.since_s = now_s
        self.due_s = None if timeout_s is None else now_s + timeout_s


_ENDED = frozenset({State.STOPPED, State.FAILED})


class Supervision:
    """The state machine: events in with the time, commands out."""

    def __init__(self, plans: Sequence[ProcessPlan]) -> None:
        """Checks the plan.

        Raises:
            ValueError: a name stands twice, is unknown, or processes need each other in a circle.
        """
        self._plans = {plan.name: plan for plan in plans}
        if len(self._plans) != len(plans):
            raise ValueError("a process name stands twice")
        for plan in plans:
            for other in plan.needs | plan.uses:
                if other not in self._plans:
                    raise ValueError(f"{plan.name} refers to {other}, which is no process")
        start_order(plans)
        self.status = {plan.name: ProcessStatus() for plan in plans}
        self.stopping = False

    @property
    def all_ready(self) -> bool:
        """Whether everything is up."""
        return all(status.state is State.READY for status in self.status.values())

    @property
    def all_ended(self) -> bool:
        """Whether nothing runs and nothing will."""
        return all(status.state in _ENDED for status in self.status.values())

    @property
    def failed(self) -> list[str]:
        """Processes that were given up."""
        return [name for name, status in self.status.items() if status.state is State.FAILED]

    def begin(self, now_s: float) -> list[Command]:
        """The first commands."""
        for status in self.status.values():
            status.since_s = now_s
        return self._settle(now_s)

    def on_event(self, event: Event, now_s: float) -> list[Command]:
        """What is to be done now.

        Args:
            event: what happened.
            now_s: monotonic seconds.
        """
        match event:
            case BecameReady(name):
                status = self.status[name]
                if status.state is State.STARTING:
                    status.was_ready = True
                    status.enter(State.READY, now_s)
            case Exited(name, code):
                self._exited(name, code, now_s)
            case StopAsked():
                self._stop_asked(now_s)
            case TimePassed():
                pass
        return self._settle(now_s)

    def _exited(self, name: str, code: int, now_s: float) -> None:
        status, plan = self.status[name], self._plans[name]
        status.last_exit = code
        status.killed = False
        if self.stopping:
            status.enter(State.STOPPED, now_s)
            return
        if status.state is State.READY and now_s - status.since_s >= plan.restart.healthy_after_s:
            status.deaths = 0
        status.deaths += 1
        if not status.was_ready and status.deaths >= plan.restart.attempts:
            status.enter(State.FAILED, now_s)
        else:
            status.enter(State.PAUSED, now_s, plan.restart.pause_s(status.deaths))

    def _stop_asked(self, now_s: float) -> None:
        self.stopping = True
        for status in self.status.values():
            if status.state in (State.WAITING, State.PAUSED):
                status.enter(State.STOPPED, now_s)

    def _settle(self, now_s: float) -> list[Command]:
        commands = list(self._stops(now_s) if self.stopping else self._starts(now_s))
        commands += self._overdue(now_s)
        due = [status.due_s for status in self.status.values() if status.due_s is not None]
        if due:
            commands.append(WakeAt(min(due)))
        return commands

    def _starts(self, now_s: float) -> Iterable[Command]:
        for name, plan in self._plans.items():
            status = self.status[name]
            waited = status.state is State.PAUSED and status.due_s is not None and status.due_s <= now_s
            may = status.state is State.WAITING or waited
            if may and all(self.status[other].was_ready for other in plan.needs):
                status.restarts += waited
                status.enter(State.STARTING, now_s, plan.start_timeout_s)
                yield Start(name)

    def _stops(self, now_s: float) -> Iterable[Command]:
        for name, plan in self._plans.items():
            status = self.status[name]
            if status.state not in (State.STARTING, State.READY):
                continue
            if all(self.status[other].state in _ENDED for other in self._dependants(name)):
                status.enter(State.STOPPING, now_s, plan.stop_timeout_s)
                yield Terminate(name)

    def _overdue(self, now_s: float) -> Iterable[Command]:
        for name, status in self.status.items():
            if status.due_s is None or status.due_s > now_s:
                continue
            if status.state in (State.STARTING, State.STOPPING) and not status.killed:
                status.killed = True
                status.due_s = None  # its exit is the next thing to hear of it
                yield Kill(name)

    def _dependants(self, name: str) -> Iterable[str]:
        return (other for other, plan in self._plans.items() if name in plan.needs | plan.uses)


def start_order(plans: Sequence[ProcessPlan]) -> list[str]:
    """Names so that each stands after what it needs and uses.

    Raises:
        ValueError: processes need or use each other in a circle, so they could never be stopped in order.
    """
    order: list[str] = []
    left = {plan.name: plan.needs | plan.uses for plan in plans}
    while left:
        free = [name for name, others in left.items() if not others & left.keys()]
        if not free:
            raise ValueError(f"these processes wait for each other: {', '.join(sorted(left))}")
        order += free
        for name in free:
            del left[name]
    return order

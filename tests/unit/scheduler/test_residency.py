"""Programs on workers: as many as their contexts fit, kept while they are away for a tool, and found there again."""

import math

from support.scheduler_core import START

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.commands import Dispatch, Preempt, Refuse
from aios_scheduler.core.configuration import PoolConfiguration
from aios_scheduler.core.events import Arrived, Event, RunEnded, RunReturned, Tick, WorkerLeft, WorkerSeen
from aios_scheduler.core.learnt import NEVER_S, Gaps


class House:
    """A core with workers of so much memory."""

    def __init__(
        self, *kv_tokens: int, policy: PolicyName = "aios", can_preempt: bool = False, slots: int = 100
    ) -> None:
        self.core = SchedulerCore(PoolConfiguration(policy))
        self.now = START
        self.where: dict[str, str] = {}
        self.stopped: list[str] = []
        self.refused: dict[str, str] = {}
        self.kv_tokens, self.can_preempt, self.slots = kv_tokens, can_preempt, slots
        self.beat()

    def feed(self, event: Event) -> None:
        for command in self.core.on_event(event, self.now):
            match command:
                case Dispatch(call, worker):
                    self.where[call.id] = worker[1]
                case Preempt(call, _):
                    self.stopped.append(call.id)
                case Refuse(call, error):
                    self.refused[call.id] = error.code

    def beat(self, made: int = 0) -> None:
        for number, kv in enumerate(self.kv_tokens):
            worker = self.core.workers.get(("default", f"w{number}"))
            running = dict.fromkeys(worker.running if worker else (), made)
            self.feed(
                WorkerSeen(
                    ("default", f"w{number}"),
                    "1",
                    "m",
                    self.slots,
                    True,
                    running,
                    kv_tokens=kv,
                    can_preempt=self.can_preempt,
                )
            )

    def call(
        self,
        name: str,
        program: str,
        tokens: int,
        *,
        agent: str = "agent",
        priority: int = 5,
        deadline_s: float | None = None,
        after: tuple[str, ...] = (),
        max_tokens: int = 100,
        resumable: bool = True,
    ) -> None:
        self.feed(
            Arrived(
                ModelCall(
                    key=f"acme.{agent}.{name}",
                    id=name,
                    tenant="acme",
                    agent=agent,
                    program=program,
                    operation="chat",
                    model=None,
                    priority=priority,
                    deadline=self.now + (deadline_s or 100_000),
                    arrived=self.now,
                    durable=True,
                    size_bytes=4 * tokens,
                    has_deadline=deadline_s is not None,
                    max_tokens=max_tokens,
                    after=tuple(f"acme.{agent}.{other}" for other in after),
                    resumable=resumable,
                )
            )
        )

    def end(self, name: str, tokens: int, *, agent: str = "agent", tool: str = "look", cached: int = 0) -> None:
        key = f"acme.{agent}.{name}"
        worker = ("default", self.where[name])
        self.feed(RunEnded(key, worker, prompt_tokens=tokens, completion_tokens=20, tool=tool, cached_tokens=cached))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.5)
            self.beat(1)


def test_only_as_many_programs_are_let_in_as_fit() -> None:
    house = House(2000)
    for number in range(3):
        house.call(f"c{number}", f"p{number}", 800)
    assert list(house.where) == ["c0", "c1"]
    house.end("c0", 800, tool="")
    house.wait(5)
    assert "c2" in house.where


def test_a_program_that_comes_back_finds_its_worker_and_goes_before_new_ones() -> None:
    house = House(2000, 2000)
    for number in range(4):
        house.call(f"c{number}", f"p{number}", 800)
    assert sorted(house.where.values()) == ["w0", "w0", "w1", "w1"]
    home = house.where["c1"]
    house.end("c1", 800)
    house.call("new", "p9", 800)
    house.now += 0.2
    house.call("back", "p1", 850)
    assert house.where["back"] == home
    assert "new" not in house.where


def test_a_program_with_calls_side_by_side_uses_every_slot_of_its_homes() -> None:
    house = House(100_000, 100_000, slots=8)
    for number in range(16):
        house.call(f"c{number}", "p", 900)
    assert len(house.where) == 16, "no slot stays empty while one of its calls waits"
    house.call("c16", "p", 900)
    assert "c16" not in house.where
    on_first = next(name for name, worker in house.where.items() if worker == "w0")
    house.end(on_first, 900)
    assert house.where["c16"] == "w0"
    house.call("c17", "p", 900)
    on_second = next(name for name, worker in house.where.items() if worker == "w1")
    house.end(on_second, 900)
    assert house.where["c17"] == "w1", "at once, wherever it stood in line"


def test_a_place_is_given_up_when_its_time_has_come_and_somebody_waits() -> None:
    house = House(1000)
    house.call("c0", "p0", 700)
    house.end("c0", 700)
    house.call("c1", "p1", 700)
    assert "c1" not in house.where
    wake = house.core.next_wake(house.now)
    assert wake is not None
    while "c1" not in house.where:
        house.now = wake = house.core.next_wake(house.now) or math.inf
        assert house.now < START + 10
        house.beat()
        house.feed(Tick())
    house.end("c1", 700)
    house.call("c2", "p0", 700)
    house.wait(5)
    assert "c2" in house.where


def test_a_tool_that_takes_long_is_waited_for_only_as_long_as_it_is_worth() -> None:
    quick, slow = Gaps(), Gaps()
    for number in range(100):
        quick.add(0.5 + number / 400)
        slow.add(60.0 if number % 2 else NEVER_S * 2)
    assert 0.7 <= quick.keep_s(worth=10.0) < 1.2
    assert slow.keep_s(worth=10.0) == 0.0


def test_a_call_larger_than_the_memory_runs_alone_instead_of_never() -> None:
    house = House(1000)
    house.call("huge", "p0", 5000)
    assert "huge" in house.where


def test_what_all_programs_of_an_agent_share_is_counted_once() -> None:
    house = House(10_000)
    for number in range(20):
        house.call(f"c{number}", f"p{number}", 1500)
        house.end(f"c{number}", 1500, tool="", cached=1400 if number else 0)
    house.wait(5)
    for number in range(20, 40):
        house.call(f"c{number}", f"p{number}", 1500)
    assert sum(f"c{number}" in house.where for number in range(20, 40)) > 12


def test_a_worker_that_is_lost_takes_its_places_with_it() -> None:
    house = House(2000, 2000)
    house.call("c0", "p0", 800)
    home = house.where["c0"]
    house.end("c0", 800)
    house.feed(WorkerLeft(("default", home), "1"))
    house.call("c1", "p0", 800)
    assert house.where["c1"] != home


def test_a_program_that_needs_less_goes_first_once_that_is_known() -> None:
    house = House(1000)
    for number in range(4):
        for agent, calls in (("short", 1), ("long", 6)):
            for step in range(calls):
                name = f"{agent}{number}-{step}"
                house.call(name, f"{agent}{number}", 500, agent=agent)
                house.end(name, 500, agent=agent, tool="" if step == calls - 1 else "look")
            house.wait(5)
        house.wait(NEVER_S + 1)
    house.call("first", "x", 700)
    house.call("long", "l", 500, agent="long")
    house.call("short", "s", 500, agent="short")
    house.end("first", 700, tool="")
    house.wait(5)
    assert list(house.where)[-2:] == ["first", "short"]


def test_a_call_about_to_miss_its_deadline_goes_first() -> None:
    house = House(1000)
    house.call("running", "p0", 700)
    house.call("waits", "p1", 700)
    house.call("urgent", "p2", 700, deadline_s=4.0)
    house.wait(3.2)
    house.end("running", 700, tool="")
    house.feed(Tick())
    assert list(house.where)[:2] == ["running", "urgent"]


def test_an_urgent_call_stops_one_that_can_wait_and_be_resumed() -> None:
    house = House(1000, can_preempt=True)
    house.call("grammar", "p0", 200, resumable=False)
    house.call("batch", "p1", 400, priority=2)
    house.call("urgent", "p2", 300, priority=7, deadline_s=4.0)
    house.wait(3.5)
    assert house.stopped == ["batch"]
    call = house.core.calls["acme.agent.batch"]
    house.feed(RunReturned(call.key, ("default", "w0"), call.attempt, "preempted", tokens=30))
    assert house.where["urgent"] == "w0"
    house.end("urgent", 300, tool="")
    house.wait(5)
    assert call.made == 30
    assert call.state == "running"


def test_nothing_is_stopped_on_a_worker_that_cannot_resume() -> None:
    house = House(1000, can_preempt=False)
    house.call("batch", "p1", 600, priority=2)
    house.call("urgent", "p2", 300, priority=7, deadline_s=4.0)
    house.wait(3.8)
    assert house.stopped == []


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    house = House(100_000)
    for number in range(30):
        house.call(f"c{number}", f"p{number}", 400)
        house.now += 2.0
        house.beat(1)
        house.end(f"c{number}", 400, tool="")
    house.call("hopeless", "p", 400, deadline_s=0.5)
    house.call("fine", "p", 400, deadline_s=20)
    assert house.refused == {"hopeless": "deadline.unmeetable"}


def test_the_longest_chain_of_a_graph_goes_first() -> None:
    house = House(1000, slots=1)
    house.call("running", "g", 100)
    house.call("leaf", "g", 100)
    house.call("root", "g", 100)
    house.call("middle", "g", 100, after=("root",))
    house.call("end", "g", 100, after=("middle",))
    house.end("running", 100)
    assert list(house.where) == ["running", "root"]


def test_a_look_at_a_worker_that_makes_some_room_there_but_not_enough_harms_nothing() -> None:
    house = House(2000, 2000, slots=2)
    house.call("p-first", "p", 850)
    house.call("q", "q", 300)
    house.end("q", 300)
    house.wait(40)
    house.call("r", "r", 1400)
    house.call("p-second", "p", 750)
    assert house.where == {"p-first": "w0", "q": "w1", "r": "w1", "p-second": "w0"}
    there = house.core.pools.get("default").assignment.residency.houses["default", "w1"].residents
    assert len(there) == 2, "an expired place is kept while nobody wants it"
    house.call("p-third", "p", 1200)
    assert len(there) == 1
    assert "p-third" not in house.where
    house.end("r", 1400, tool="")
    house.wait(NEVER_S + 1)
    assert house.where["p-third"] == "w1"

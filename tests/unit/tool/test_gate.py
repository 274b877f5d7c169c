"""Calls of any resource sets: none overlaps one it conflicts with, limits hold, and all come to their end."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from aios_tool.core.gate import Claim, Gate

RESOURCES = st.frozensets(st.sampled_from("abcde"), max_size=4)
CLAIMS = st.lists(st.tuples(st.sampled_from(["t1", "t2", "t3"]), RESOURCES, RESOURCES), min_size=1, max_size=40)
LIMITS = {"t1": 1, "t2": 2, "t3": 100}


def conflicts(one: Claim, other: Claim) -> bool:
    return bool(one.writes & (other.writes | other.reads) or other.writes & (one.writes | one.reads))


@settings(max_examples=300, deadline=None)
@given(CLAIMS, st.randoms(use_true_random=False), st.booleans())
def test_whatever_calls_come_none_overlaps_and_none_is_left(
    wanted: list[tuple[str, frozenset[str], frozenset[str]]], chance: Random, give_up: bool
) -> None:
    gate, running, waiting = Gate(), dict[str, Claim](), dict[str, Claim]()
    coming = [
        Claim(str(number), tool, LIMITS[tool], reads, writes) for number, (tool, reads, writes) in enumerate(wanted)
    ]

    def start(keys: list[str]) -> None:
        for key in keys:
            claim = waiting.pop(key)
            assert not any(conflicts(claim, other) for other in running.values())
            running[key] = claim
            assert sum(other.tool == claim.tool for other in running.values()) <= claim.limit
            assert gate.running(claim.tool) <= claim.limit

    while coming or running or waiting:
        assert running or coming, f"{len(waiting)} calls wait for nobody"
        if coming and (not running or chance.random() < 0.5):
            claim = coming.pop(0)
            waiting[claim.key] = claim
            start(gate.arrive(claim))
        elif give_up and waiting and chance.random() < 0.2:
            key = chance.choice(sorted(waiting))
            del waiting[key]
            start(gate.leave(key))
        else:
            key = chance.choice(sorted(running))
            del running[key]
            start(gate.leave(key))
    assert len(gate) == 0


@settings(max_examples=200, deadline=None)
@given(CLAIMS)
def test_conflicting_calls_start_in_the_order_in_which_they_came(
    wanted: list[tuple[str, frozenset[str], frozenset[str]]],
) -> None:
    gate, order = Gate(), list[str]()
    claims = {
        str(number): Claim(str(number), f"tool-{number}", 1, reads, writes)
        for number, (_, reads, writes) in enumerate(wanted)
    }
    for claim in claims.values():
        order += gate.arrive(claim)
    for key in order:  # grows while it is read
        order += gate.leave(key)
    assert sorted(order, key=int) == list(claims)
    for at, key in enumerate(order):
        for earlier in order[:at]:
            if int(earlier) > int(key):
                assert not conflicts(claims[earlier], claims[key])


def test_a_thousand_waiting_calls_are_let_through_quickly() -> None:
    gate = Gate()
    started = [key for number in range(1000) for key in gate.arrive(Claim(str(number), "t", 4, writes=frozenset("a")))]
    for key in started:
        started += gate.leave(key)
    assert started == [str(number) for number in range(1000)]

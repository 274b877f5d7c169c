"""When a durable call may begin before the durable queue has delivered it."""

from aios_scheduler.arrivals import Arrivals


def test_a_fresh_installation_knows_every_id_from_the_start() -> None:
    known = Arrivals(600, complete=True, now=0)
    assert known.surely_new("a.b.1", 0)
    known.add("a.b.1", 0)
    assert not known.surely_new("a.b.1", 1)
    assert known.surely_new("a.b.2", 1)


def test_after_a_restart_no_id_is_surely_new_until_the_window_has_passed() -> None:
    known = Arrivals(600, complete=False, now=1000)
    assert not known.surely_new("a.b.1", 1000)
    assert not known.surely_new("a.b.1", 1599)
    assert known.surely_new("a.b.1", 1600)


def test_an_id_is_remembered_for_the_whole_window() -> None:
    known = Arrivals(600, complete=True, now=0)
    known.add("a.b.1", 599)
    known.add("a.b.2", 601)
    known.add("a.b.3", 1198)
    assert known.known("a.b.1")
    known.add("a.b.4", 1203)
    known.add("a.b.5", 1900)
    assert not known.known("a.b.1")
    assert known.surely_new("a.b.1", 1900)


def test_more_ids_than_are_kept_leave_none_surely_new_for_a_window() -> None:
    known = Arrivals(600, complete=True, now=0, generation=10)
    for number in range(31):
        known.add(f"a.b.{number}", 1 + number)
    assert not known.known("a.b.0")
    assert not known.surely_new("a.b.0", 40)
    assert not known.surely_new("a.b.fresh", 40)
    assert known.surely_new("a.b.fresh", 700)

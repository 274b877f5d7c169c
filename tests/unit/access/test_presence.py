"""When a manager counts as running."""

from aios_access.presence import PresenceTable
from aios_proto.kernel import PRESENCE_TIMEOUT_S, Presence


def beat(instance: str = "m1", operations: tuple[str, ...] = ("add", "get"), leaving: bool = False) -> Presence:
    return Presence(manager="memory", instance=instance, operations=list(operations), leaving=leaving)


def test_nobody_is_there_before_the_first_heartbeat() -> None:
    assert not PresenceTable().serves("memory", "add", 0)


def test_a_heartbeat_counts_for_its_operations_until_it_is_too_old() -> None:
    table = PresenceTable()
    table.heard(beat(), 100)
    assert table.serves("memory", "add", 100 + PRESENCE_TIMEOUT_S)
    assert not table.serves("memory", "add", 100 + PRESENCE_TIMEOUT_S + 0.01)
    assert not table.serves("memory", "search", 100)
    assert not table.serves("storage", "add", 100)


def test_a_goodbye_counts_at_once_and_for_its_instance_only() -> None:
    table = PresenceTable()
    table.heard(beat("m1"), 100)
    table.heard(beat("m2"), 100)
    table.heard(beat("m1", leaving=True), 101)
    assert table.serves("memory", "add", 101)
    table.heard(beat("m2", leaving=True), 101)
    assert not table.serves("memory", "add", 101)
    table.heard(beat("m3", leaving=True), 101)


def test_replicas_of_different_versions_offer_what_either_does() -> None:
    table = PresenceTable()
    table.heard(beat("old", ("add",)), 100)
    table.heard(beat("new", ("add", "search")), 100)
    assert table.serves("memory", "search", 100)


def test_after_an_outage_of_the_bus_those_known_get_the_benefit_of_the_doubt() -> None:
    table = PresenceTable()
    table.heard(beat(), 100)
    table.refresh(200)
    assert table.serves("memory", "add", 200 + PRESENCE_TIMEOUT_S)
    assert not table.serves("memory", "add", 201 + PRESENCE_TIMEOUT_S)

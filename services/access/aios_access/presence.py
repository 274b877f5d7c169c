"""Which operations some live service offers now, by the heartbeats heard."""

from aios_proto.kernel import PRESENCE_TIMEOUT_S, Presence

_NEVER = float("-inf")


class PresenceTable:
    """Heartbeats by manager and instance. Times are seconds of any steady clock."""

    def __init__(self) -> None:
        self._instances: dict[str, dict[str, tuple[frozenset[str], float]]] = {}
        self._served_until: dict[tuple[str, str], float] = {}

    def heard(self, presence: Presence, now: float) -> None:
        """Takes one heartbeat in."""
        instances = self._instances.setdefault(presence.manager, {})
        if presence.leaving:
            instances.pop(presence.instance, None)
            self._served_until.clear()
        else:
            known = instances.get(presence.instance)
            if known is not None and known[0] != frozenset(presence.operations):
                self._served_until.clear()
            instances[presence.instance] = (frozenset(presence.operations), now)

    def refresh(self, now: float) -> None:
        """Counts everyone known as just heard: after an outage of the bus nobody can have been."""
        for instances in self._instances.values():
            for name, (operations, _) in list(instances.items()):
                instances[name] = (operations, now)

    def is_alive(self, manager: str, instance: str, now: float) -> bool:
        """Whether that instance was heard of lately."""
        _, seen = self._instances.get(manager, {}).get(instance, (None, -PRESENCE_TIMEOUT_S * 2))
        return now - seen <= PRESENCE_TIMEOUT_S

    def serves(self, manager: str, operation: str, now: float) -> bool:
        """Whether an instance heard of lately offers the operation."""
        known = (manager, operation)
        if now <= self._served_until.get(known, _NEVER):
            return True
        last = max(
            (seen for operations, seen in self._instances.get(manager, {}).values() if operation in operations),
            default=None,
        )
        if last is None or now - last > PRESENCE_TIMEOUT_S:
            return False
        self._served_until[known] = last + PRESENCE_TIMEOUT_S
        return True

"""What holds for all tests: their order, and that generated cases are judged by their outcome, not by time."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets the attacks come last.

    They share one world on an event loop that stands still while other tests run: its connections would be cut.
    """
    items.sort(key=lambda item: "attack" in item.path.parts)

"""The histories of `tests/unit/storage/test_histories.py` on the real store, where commits are batches of the bus."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from support.file_machine import FileMachine
from support.nats_server import NatsServer

from aios_storage.adapters.jetstream_store import JetStreamStore
from aios_storage.ports import Store


class BusMachine(FileMachine):
    def __init__(self, server: NatsServer) -> None:
        super().__init__()
        self._server = server

    def make_store(self) -> Store:
        nc = self._nc = self.run(self._server.connect("storage"))
        store = JetStreamStore(lambda: nc, nc.jetstream, 10)
        self.run(store.open(1))
        return store

    def teardown(self) -> None:
        self.run(self._nc.close())
        super().teardown()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_histories_on_the_bus(server: NatsServer) -> None:
    few = settings(
        max_examples=4, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(lambda: BusMachine(server), settings=few)  # type: ignore[arg-type]

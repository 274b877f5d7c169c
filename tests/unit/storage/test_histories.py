"""Whatever two agents do with their files, every version is where it must be."""

from hypothesis import settings
from support.file_machine import FileMachine
from support.memory_store import MemoryStore

from aios_storage.ports import Store


class MemoryMachine(FileMachine):
    def make_store(self) -> Store:
        return MemoryStore()


MemoryMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestHistories = MemoryMachine.TestCase

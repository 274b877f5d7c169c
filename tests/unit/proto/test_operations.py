"""The system-call table holds only what can be built into subjects and schemas."""

from aios_proto import subjects
from aios_proto.ids import new_syscall_id
from aios_proto.names import is_name, is_operation, is_syscall_id
from aios_proto.operations import MANAGERS, OPERATIONS


def test_every_operation_can_be_called() -> None:
    for (manager, name), operation in OPERATIONS.items():
        assert is_name(manager)
        assert is_operation(name)
        assert operation.full_name == f"{manager}.{name}"
        assert manager in MANAGERS
        assert subjects.operation_of(subjects.kernel(manager, name)) == (manager, name)


def test_only_model_calls_are_durable_by_default() -> None:
    durable = {operation.full_name for operation in OPERATIONS.values() if operation.durability == "durable"}
    assert durable == {"llm.chat", "llm.complete"}


def test_ids_are_legal_sort_by_time_and_do_not_repeat() -> None:
    ids = [new_syscall_id() for _ in range(1000)]
    assert all(is_syscall_id(one) for one in ids)
    assert len(set(ids)) == 1000
    assert ids[0][:10] <= ids[-1][:10]

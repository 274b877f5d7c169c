"""Subjects are built only from legal names and taken apart into what they were built from."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_proto import subjects
from aios_proto.names import is_name, is_operation, is_syscall_id
from aios_proto.subjects import SyscallSubject

HOSTILE = [
    "",
    " ",
    ".",
    "*",
    ">",
    "a.b",
    "a.>",
    "a*",
    "a b",
    "a\n",
    "a\r\nPUB x 0",
    "a\t",
    "\x00",
    "é",
    "x" * 65,
    "$SYS",
]

names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
operations = st.from_regex(r"[a-z][a-z0-9_]{0,31}(\.[a-z][a-z0-9_]{0,31}){0,3}", fullmatch=True)


@given(names, names, names, operations)
def test_a_system_call_is_taken_apart_into_what_it_was_built_from(t: str, a: str, m: str, op: str) -> None:
    assert subjects.parse_syscall(subjects.syscall(t, a, m, op)) == SyscallSubject(t, a, m, op)


@given(names, operations)
def test_a_kernel_subject_is_taken_apart_into_what_it_was_built_from(manager: str, operation: str) -> None:
    assert subjects.operation_of(subjects.kernel(manager, operation)) == (manager, operation)
    assert subjects.operation_of(subjects.durable(manager, operation)) == (manager, operation)


BUILDERS: list[Callable[[str], str]] = [
    lambda name: subjects.syscall(name, "a", "m", "op"),
    lambda name: subjects.syscall("t", name, "m", "op"),
    lambda name: subjects.syscall("t", "a", name, "op"),
    lambda name: subjects.syscalls_of(name, "a"),
    lambda name: subjects.syscalls_of("t", name),
    lambda name: subjects.kernel(name, "op"),
    lambda name: subjects.durable(name, "op"),
    lambda name: subjects.worker(name, "w", "run"),
    lambda name: subjects.worker("p", name, "run"),
    lambda name: subjects.worker_report(name, "w"),
    lambda name: subjects.worker_report("p", name),
    lambda name: subjects.presence(name, "i"),
    lambda name: subjects.presence("m", name),
    lambda name: subjects.event(name, "syscall.completed"),
    lambda name: subjects.inbox_prefix(name, "a"),
    lambda name: subjects.inbox_prefix("t", name),
    lambda name: subjects.service_inbox_prefix(name),
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("build", BUILDERS)
def test_a_hostile_name_never_becomes_part_of_a_subject(build: Callable[[str], str], name: str) -> None:
    with pytest.raises(ValueError, match="not a legal"):
        build(name)


@pytest.mark.parametrize("operation", [*HOSTILE[:4], "a..b", ".a", "a.", "A", "a.b.c.d.e", "1a", "a.*", "a-b", "a\n"])
def test_a_hostile_operation_never_becomes_part_of_a_subject(operation: str) -> None:
    for build in (subjects.kernel, subjects.durable, lambda m, op: subjects.syscall("t", "a", m, op), subjects.event):
        with pytest.raises(ValueError, match="not a legal"):
            build("m", operation)


@pytest.mark.parametrize(
    "subject", ["", "aios", "aios.sys.t.a.m", "aios.k.t.a.m.op", "other.sys.t.a.m.op", "AIOS.sys.t.a.m.o"]
)
def test_other_subjects_are_no_system_calls(subject: str) -> None:
    assert subjects.parse_syscall(subject) is None


@pytest.mark.parametrize("subject", ["", "aios.k.llm", "aios.evt.t.x", "aios.sys.t.a.m.op", "x.k.llm.chat"])
def test_other_subjects_name_no_operation(subject: str) -> None:
    assert subjects.operation_of(subject) is None


@given(names, names, st.text())
def test_only_subjects_below_the_own_prefix_are_the_own_inbox(tenant: str, agent: str, text: str) -> None:
    prefix = subjects.inbox_prefix(tenant, agent)
    assert subjects.is_own_inbox(f"{prefix}.token", tenant, agent)
    assert not subjects.is_own_inbox(prefix, tenant, agent)
    assert not subjects.is_own_inbox(f"{prefix}x.token", tenant, agent)
    assert not subjects.is_own_inbox(f"{prefix}.*", tenant, agent)
    assert not subjects.is_own_inbox(f"{prefix}.a.>", tenant, agent)
    assert not subjects.is_own_inbox(f"_INBOX.{tenant}x.{agent}.token", tenant, agent)
    if subjects.is_own_inbox(text, tenant, agent):
        assert text.startswith(f"{prefix}.")


@given(st.text(max_size=80))
def test_names_hold_no_separator_wildcard_or_space(text: str) -> None:
    for check in (is_name, is_operation, is_syscall_id):
        if check(text):
            assert not set(text) & set("*>$ \t\r\n\x00")
    if is_name(text) or is_syscall_id(text):
        assert "." not in text

"""What policies can talk about: the Cedar schema, made from the system-call table.

`python -m aios_access.policy_schema` writes it to `aios.cedarschema`, for authors of policies; a test compares the two.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final, Literal

from aios_proto.operations import OPERATIONS, Operation

FILE: Final = Path(__file__).with_name("aios.cedarschema")

ResourceType = Literal["Tenant", "Agent", "Model", "Context", "Memory", "Pool", "File", "Tool"]

READS: Final = "reads"
WRITES: Final = "writes"
"""Action groups across all managers: those that change nothing, and all others."""

_READING = frozenset(
    {
        *("get", "list", "search", "read", "versions", "models", "state", "whoami", "approvals", "check", "show"),
        *("verify", "export", "stat", "history", "window", "shares", "tokenize"),
    }
)

_TYPES_BY_MANAGER: dict[str, tuple[ResourceType, ...]] = {
    "llm": ("Model",),
    "context": ("Context",),
    "memory": ("Memory", "Pool"),
    "storage": ("File",),
    "tool": ("Tool",),
    "access": ("Tenant", "Agent"),
}

_ENTITIES = """\
// What policies of AIOS can talk about. Written by `python -m aios_access.policy_schema`; changes are lost.

entity Tenant;
entity Group;

// `Agent::"<tenant>.<agent>"`: who calls.
entity Agent in [Group, Tenant] = { name: String, group: String };

// What a call works on: `<Type>::"<tenant>/<name>"`. `owner` is the agent it belongs to, mostly the caller itself.
// A call that names none (a list, a search) has the empty name.
entity Model, Context, Memory, Pool, File in [Tenant] = { name: String, owner: Agent };
entity Tool in [Tenant] = { name: String, owner: Agent, effects: Set<String> };

// `tainted`: the program has taken in untrusted content. `own`: the caller works on its own resources, not by a grant.
type Circumstances = { tainted: Bool, own: Bool, program: String, priority: Long };
"""


def is_reading(operation: str) -> bool:
    """Whether an operation, by its name within the manager, changes nothing."""
    return operation.rsplit(".", 1)[-1] in _READING


def resource_types(manager: str) -> tuple[ResourceType, ...]:
    """The types of resources a manager's operations work on."""
    return _TYPES_BY_MANAGER.get(manager, ("Tenant",))


def action_groups(operation: Operation) -> tuple[str, ...]:
    """The action groups an operation is in: each prefix of its name, and `reads` or `writes`."""
    parts = operation.full_name.split(".")
    prefixes = [".".join(parts[:length]) for length in range(1, len(parts))]
    return (*prefixes, READS if is_reading(operation.name) else WRITES)


def schema_text(operations: Iterable[Operation] = OPERATIONS.values()) -> str:
    """The schema in Cedar's own notation."""
    known = sorted(operations, key=lambda each: each.full_name)
    groups = sorted({group for operation in known for group in action_groups(operation)})
    lines = [_ENTITIES, *(f'action "{group}";' for group in groups), ""]
    for operation in known:
        parents = ", ".join(f'"{group}"' for group in action_groups(operation))
        types = ", ".join(resource_types(operation.manager))
        lines.append(
            f'action "{operation.full_name}" in [{parents}]'
            f" appliesTo {{ principal: [Agent], resource: [{types}], context: Circumstances }};"
        )
    return "\n".join(lines) + "\n"


@cache
def schema() -> str:
    """The schema of the operations this version knows."""
    return schema_text()


if __name__ == "__main__":
    FILE.write_text(schema())

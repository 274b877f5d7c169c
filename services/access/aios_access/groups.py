"""Which operations a privilege group may perform unless a tenant says otherwise. Default deny."""

from collections.abc import Mapping, Sequence

from aios_access.policy_schema import action_groups
from aios_proto.operations import OPERATIONS


def default_policies(allowed: Mapping[str, Sequence[str]]) -> str:
    """The built-in policies as Cedar text: one `permit` a group, with the group's name as its id.

    Every group that may call tools, but not everything, has a second one: before it calls an irreversible tool, a human
    is asked.

    Args:
        allowed: by group, patterns of the form `*`, `manager.*` or `manager.operation`.

    Raises:
        ValueError: a pattern has another form, or names an operation that does not exist.
    """
    permits = [_policy(group, patterns) for group, patterns in sorted(allowed.items()) if patterns]
    asks = [_ask_policy(group) for group, patterns in sorted(allowed.items()) if _TOOL_CALLS.intersection(patterns)]
    return "\n".join(permits + asks)


_TOOL_CALLS = frozenset({"tool.*", "tool.call"})


def _ask_policy(group: str) -> str:
    return (
        f'@id("{group}-irreversible")\n@ask("the tool cannot be undone")\n'
        f'permit(principal in Group::"{group}", action == Action::"tool.call", resource)\n'
        'when { resource.effects.contains("irreversible") };\n'
    )


def _policy(group: str, patterns: Sequence[str]) -> str:
    actions = [_action(group, pattern) for pattern in patterns]
    listed = ", ".join(f'Action::"{name}"' for name in actions)
    scope = "action" if None in actions else f"action in [{listed}]"
    return f'@id("{group}")\npermit(principal in Group::"{group}", {scope}, resource);\n'


def _action(group: str, pattern: str) -> str | None:
    """The action or action group of a pattern; None for all."""
    if pattern == "*":
        return None
    name = pattern.removesuffix(".*")
    known = _PREFIXES if pattern.endswith(".*") else _NAMES
    if name not in known:
        msg = f"group {group}: {pattern!r} is not `*`, `manager.*` or `manager.operation` of what there is"
        raise ValueError(msg)
    return name


_NAMES = frozenset(operation.full_name for operation in OPERATIONS.values())
_PREFIXES = frozenset(prefix for operation in OPERATIONS.values() for prefix in action_groups(operation)[:-1])

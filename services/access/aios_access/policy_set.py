"""Whether a tenant's policies allow a call, and by which of them: Cedar, asked once and remembered.

Most decisions depend on who calls what and on nothing else: they cost one look into a dict. Only where a policy that
could apply speaks of the resource or of the circumstances is the body read and the decision made for that resource.

Cedar decides (https://www.cedarpolicy.com): default deny, `forbid` before `permit`. A `permit` with the annotation
`@ask` allows only after a human has agreed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count
from typing import Final, Literal

import cedarpy
from pydantic import JsonValue

from aios_access.directory import Identity
from aios_access.policy_schema import action_groups, schema
from aios_access.resources import Resource
from aios_proto.errors import InvalidRequest
from aios_proto.operations import Operation

_SERIALS = count(1)

MAX_TEXT_BYTES: Final = 128 << 10
_REMEMBERED: Final = 65_536
_SMALL_CHARS: Final = 1024

Json = Mapping[str, JsonValue]
Effect = Literal["allow", "deny", "ask"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policies say about a call.

    Attributes:
        effect: `ask` means: allowed once a human agrees.
        policies: those that decided, as `<document>:<id>`; none where nothing permits.
    """

    effect: Effect
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What policies can ask of a call beside who, what and on which resource."""

    tainted: bool = False
    own: bool = True
    program: str = ""
    priority: int = 5


@dataclass(frozen=True, slots=True)
class _Policy:
    """What a decision must know of one policy without asking Cedar."""

    name: str
    principal: Json
    action: Json
    by_resource: bool
    by_principal: bool
    asks: bool

    def may_concern(self, identity: Identity, actions: frozenset[str]) -> bool:
        """Whether it could apply to this caller and one of these actions."""
        return _names_any(self.action, actions) and _names_principal(self.principal, identity)


class PolicySet:
    """The policies in force for one tenant, compiled.

    Args:
        documents: text by name.
        before: the set they take the place of. Where one document differs, only that one is parsed, and behind the
            others Cedar has compiled: milliseconds the first time, a quarter of one when the same document changes
            again.

    Raises:
        InvalidRequest: a document is not Cedar, or does not fit the schema; `field` is its name.
    """

    def __init__(self, documents: Mapping[str, str], before: "PolicySet | None" = None) -> None:
        self.serial = next(_SERIALS)
        """Unlike that of every other set; from 1."""
        parsed = [_parsed(document, text) for document, text in documents.items()]
        self._policies = tuple(policy for document in parsed for policy in document.policies)
        self._groups = frozenset[str]().union(*(document.groups for document in parsed))
        self._singled_out = frozenset[str]().union(*(document.singled_out for document in parsed))
        self._looks_at_agents = any(document.looks_at_agents for document in parsed)
        self._asking = frozenset[str]().union(*(document.asking for document in parsed))
        self._documents = dict(documents)
        self._apart = None if before is None else before._changed(documents)
        """The document that Cedar has behind all others, by the numbers of its policies."""
        if before is None or self._apart is None:
            self._others = _compiled(parsed)
            self._cedar = self._others
            self._name_of: dict[str, str] = {}
        else:
            apart = self._apart
            others = before._without(apart)
            self._others = others or _compiled([_parsed(*each) for each in documents.items() if each[0] != apart])
            self._cedar = self._others.with_added_str(documents[apart])
            names = policy_names(apart, documents[apart])
            self._name_of = {f"policy{number}": name for number, name in enumerate(names)}
        self._fixed: dict[tuple[str, str, str], Decision | None] = {}
        self._by_group: dict[tuple[str, str], Decision | None] = {}
        self._by_resource: dict[tuple[str, str, str, Resource, Circumstances], Decision] = {}

    def soon_changed_to(self, documents: Mapping[str, str]) -> bool:
        """Whether a set of these documents takes about a millisecond to make from this one."""
        apart = self._changed(documents)
        return apart is not None and len(documents[apart]) <= _SMALL_CHARS and self._without(apart) is not None

    def _changed(self, documents: Mapping[str, str]) -> str | None:
        """The one document that is new or differs; None where it is not one."""
        changed = [name for name, text in documents.items() if self._documents.get(name) != text]
        return changed[0] if len(changed) == 1 and self._documents.keys() <= documents.keys() else None

    def _without(self, document: str) -> cedarpy.PolicySet | None:
        """All documents but one as Cedar has them, if they have been compiled without it."""
        if self._apart == document or (self._apart is None and document not in self._documents):
            return self._others
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """All policies, as `<document>:<id>`."""
        return tuple(policy.name for policy in self._policies)

    def groups(self) -> frozenset[str]:
        """The privilege groups the policies speak of in their scopes."""
        return self._groups

    def decide_early(self, identity: Identity, operation: Operation) -> Decision | None:
        """The decision where it does not depend on the resource or the circumstances; None where it does."""
        key = (identity.agent, identity.group, operation.full_name)
        try:
            return self._fixed[key]
        except KeyError:
            pass
        if len(self._fixed) >= _REMEMBERED:
            self._fixed.clear()
        if self._looks_at_agents or identity.key in self._singled_out:
            decision = self._first_decision(identity, operation)
        else:
            # One agent of the group is as good as another: a change of policy is not paid for by each of a thousand.
            alike = (identity.group, operation.full_name)
            if alike not in self._by_group:
                self._by_group[alike] = self._first_decision(identity, operation)
            decision = self._by_group[alike]
        self._fixed[key] = decision
        return decision

    def _first_decision(self, identity: Identity, operation: Operation) -> Decision | None:
        if self._depends(identity, operation):
            return None
        whole = Resource("Tenant", identity.tenant, "", identity.agent)
        return self._ask_cedar(identity, operation, whole, Circumstances())

    def decide(
        self, identity: Identity, operation: Operation, resource: Resource, circumstances: Circumstances
    ) -> Decision:
        """The decision for one resource."""
        key = (identity.agent, identity.group, operation.full_name, resource, circumstances)
        decision = self._by_resource.get(key)
        if decision is None:
            if len(self._by_resource) >= _REMEMBERED:
                self._by_resource.clear()
            decision = self._by_resource[key] = self._ask_cedar(identity, operation, resource, circumstances)
        return decision

    def _depends(self, identity: Identity, operation: Operation) -> bool:
        actions = frozenset((operation.full_name, *action_groups(operation)))
        return any(policy.by_resource and policy.may_concern(identity, actions) for policy in self._policies)

    def _ask_cedar(
        self, identity: Identity, operation: Operation, resource: Resource, circumstances: Circumstances
    ) -> Decision:
        request = {
            "principal": {"type": "Agent", "id": identity.key},
            "action": {"type": "Action", "id": operation.full_name},
            "resource": {"type": resource.type, "id": resource.id},
            "context": {
                "tainted": circumstances.tainted,
                "own": circumstances.own,
                "program": circumstances.program,
                "priority": circumstances.priority,
            },
        }
        answer = cedarpy.is_authorized(request, self._cedar, json.dumps(_entities_of(identity, operation, resource)))
        names = tuple(sorted(self._name_of.get(name, name) for name in answer.diagnostics.reasons))
        if answer.diagnostics.errors:
            # Cedar passes over a policy it cannot evaluate, a `forbid` too. What cannot be judged is not allowed.
            return Decision("deny", names)
        if not answer.allowed:
            return Decision("deny", names)
        return Decision("ask" if self._asking.intersection(names) else "allow", names)


def check_document(document: str, text: str) -> None:
    """Whether a document may take effect.

    Raises:
        InvalidRequest: why it may not.
    """
    names = policy_names(document, text)
    errors = cedarpy.validate_policies(text, _schema(), release_gil=True).errors
    if errors:
        number = errors[0].policy_id.removeprefix("policy")
        where = f"{names[int(number)]}: " if number.isdigit() else ""
        first = where + errors[0].error.replace(f"for policy `policy{number}`, ", "")
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InvalidRequest(f"{first}{more}", field="text")


def policy_names(document: str, text: str) -> tuple[str, ...]:
    """A document's policies, as `<document>:<id>`.

    Raises:
        InvalidRequest: it is not Cedar.
    """
    return tuple(policy.name for policy in _parsed(document, text).policies)


@cache
def _schema() -> cedarpy.Schema:
    return cedarpy.Schema.from_str(schema())


@dataclass(frozen=True, slots=True)
class _Document:
    """One document, parsed: a change of another one does not pay for it again.

    Attributes:
        policies: in their order.
        members: the same in Cedar's JSON form, by `<document>:<id>`, without the braces.
        groups: privilege groups that scopes name.
        singled_out: agents that scopes name.
        looks_at_agents: whether a condition speaks of the principal.
        asking: policies with `@ask`.
    """

    policies: tuple[_Policy, ...]
    members: str
    groups: frozenset[str]
    singled_out: frozenset[str]
    looks_at_agents: bool
    asking: frozenset[str]


def _compiled(documents: Iterable[_Document]) -> cedarpy.PolicySet:
    members = ",".join(document.members for document in documents if document.members)
    est = f'{{"staticPolicies":{{{members}}},"templates":{{}},"templateLinks":[]}}'
    return cedarpy.PolicySet.from_json_str(est, release_gil=True)


@lru_cache(maxsize=256)
def _parsed(document: str, text: str) -> _Document:
    named = _named(document, text)
    policies = tuple(_policy(name, policy) for name, policy in named.items())
    scopes = [(entity["type"], entity["id"]) for policy in policies for entity in _entities(policy.principal)]
    return _Document(
        policies,
        json.dumps(named)[1:-1],
        frozenset(name for kind, name in scopes if kind == "Group"),
        frozenset(name for kind, name in scopes if kind == "Agent"),
        any(policy.by_principal for policy in policies),
        frozenset(policy.name for policy in policies if policy.asks),
    )


def _named(document: str, text: str) -> dict[str, JsonValue]:
    """The policies of a document in Cedar's JSON form, by `<document>:<id>`."""
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise InvalidRequest(f"a policy document may have {MAX_TEXT_BYTES} bytes", field="text")
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise InvalidRequest(f"{document} is not Cedar: {error}", field="text") from error
    if parsed.get("templates"):
        raise InvalidRequest("policy templates are not supported", field="text")
    named: dict[str, JsonValue] = {}
    for number, (_, policy) in enumerate(sorted(parsed["staticPolicies"].items(), key=_by_number)):
        own = policy.get("annotations", {}).get("id") or str(number)
        name = f"{document}:{own}"
        if name in named:
            raise InvalidRequest(f"two policies of {document} have the id {own!r}", field="text")
        named[name] = policy
    return named


def _by_number(item: tuple[str, JsonValue]) -> int:
    return int(item[0].removeprefix("policy"))


def _policy(name: str, est: JsonValue) -> _Policy:
    assert isinstance(est, dict)
    scope = est["resource"]
    principal, action = est["principal"], est["action"]
    annotations = est.get("annotations") or {}
    assert isinstance(scope, dict)
    assert isinstance(principal, dict)
    assert isinstance(action, dict)
    assert isinstance(annotations, dict)
    by_resource = scope["op"] != "All" or _mentions(est["conditions"], ("resource", "context"))
    by_principal = _mentions(est["conditions"], ("principal",))
    return _Policy(name, principal, action, by_resource, by_principal, "ask" in annotations)


def _mentions(body: JsonValue, variables: tuple[str, ...]) -> bool:
    """Whether a condition speaks of one of Cedar's variables."""
    if isinstance(body, dict):
        if body.get("Var") in variables:
            return True
        return any(_mentions(part, variables) for part in body.values())
    return isinstance(body, list) and any(_mentions(part, variables) for part in body)


def _entities(scope: Json) -> Iterator[Mapping[str, str]]:
    found = [scope.get("entity"), *_list(scope.get("entities"))]
    inner = scope.get("in")
    if isinstance(inner, dict):
        found.append(inner.get("entity"))
    for entity in found:
        if isinstance(entity, dict):
            yield {"type": str(entity.get("type")), "id": str(entity.get("id"))}


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _names_any(scope: Json, actions: frozenset[str]) -> bool:
    return scope["op"] == "All" or any(entity["id"] in actions for entity in _entities(scope))


def _names_principal(scope: Json, identity: Identity) -> bool:
    if scope["op"] == "All":
        return True
    mine = {("Agent", identity.key), ("Group", identity.group), ("Tenant", identity.tenant)}
    named = [(entity["type"], entity["id"]) for entity in _entities(scope)]
    return not named or any(each in mine for each in named)


def _entities_of(identity: Identity, operation: Operation, resource: Resource) -> list[Json]:
    """Everything Cedar must know for one decision."""
    tenant: Json = {"type": "Tenant", "id": identity.tenant}
    action: Json = {
        "uid": {"type": "Action", "id": operation.full_name},
        "attrs": {},
        "parents": [{"type": "Action", "id": group} for group in action_groups(operation)],
    }
    agents: dict[str, Json] = {
        identity.key: {
            "uid": {"type": "Agent", "id": identity.key},
            "attrs": {"name": identity.agent, "group": identity.group},
            "parents": [{"type": "Group", "id": identity.group}, dict(tenant)],
        }
    }
    entities: list[Json] = [action]
    if resource.type == "Agent":
        agents.setdefault(resource.id, _other_agent(resource.tenant, resource.name))
    elif resource.type != "Tenant":
        owner = f"{resource.tenant}.{resource.owner}"
        agents.setdefault(owner, _other_agent(resource.tenant, resource.owner))
        attributes: dict[str, JsonValue] = {
            "name": resource.name,
            "owner": {"__entity": {"type": "Agent", "id": owner}},
        }
        if resource.type == "Tool":
            attributes["effects"] = [*sorted(resource.effects)]
        entities.append(
            {
                "uid": {"type": resource.type, "id": resource.id},
                "attrs": attributes,
                "parents": [{"type": "Tenant", "id": resource.tenant}],
            }
        )
    return [*entities, *agents.values()]


def _other_agent(tenant: str, agent: str) -> Json:
    return {
        "uid": {"type": "Agent", "id": f"{tenant}.{agent}"},
        "attrs": {"name": agent, "group": ""},
        "parents": [{"type": "Tenant", "id": tenant}],
    }

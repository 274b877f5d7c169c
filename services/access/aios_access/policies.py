"""Which policies are in force for each tenant, and what they say about a call.

A tenant's policies are documents by name. The built-in document `default` gives the privilege groups their operations;
a tenant may replace it by one of its own of that name, and adds to it by others. A document whose stored form cannot
be used leaves the tenant with nothing but its operators' rights until it is mended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aios_access.directory import Identity
from aios_access.groups import default_policies
from aios_access.policy_set import Circumstances, Decision, PolicySet, check_document
from aios_access.resources import Resource
from aios_proto.errors import InvalidRequest, ResourceNotFound
from aios_proto.operations import OPERATIONS, Operation

DEFAULT_DOCUMENT: Final = "default"
MAX_DOCUMENTS: Final = 64
MAX_TENANT_CHARS: Final = 512 << 10

_TOGETHER = "(all together)"
_PUT = OPERATIONS["access", "policy.put"]


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """One stored document.

    Attributes:
        version: counts up from 1 by document; 0 is the built-in one.
        author: the agent that put it.
        at_ms: Unix time in milliseconds.
    """

    tenant: str
    name: str
    version: int
    text: str = field(repr=False)
    author: str = ""
    at_ms: int = 0


class Policies:
    """The policy sets of all tenants.

    Args:
        groups: allowed operations by group, for the built-in document.

    Raises:
        ValueError: a pattern in `groups` cannot be used.
    """

    def __init__(self, groups: Mapping[str, tuple[str, ...] | list[str]]) -> None:
        self.default_text = default_policies(groups)
        self._group_names = frozenset(groups)
        self._default = PolicySet({DEFAULT_DOCUMENT: self.default_text})
        self._emergency = PolicySet({DEFAULT_DOCUMENT: default_policies({"operator": ["*"]})})
        self._documents: dict[str, dict[str, PolicyDocument]] = {}
        self._broken: dict[str, dict[str, str]] = {}
        self._sets: dict[str, PolicySet] = {}
        self._checked: dict[str, tuple[dict[str, str], PolicySet]] = {}
        self.stale: set[str] = set()

    def of_tenant(self, tenant: str) -> PolicySet:
        """What is in force for a tenant."""
        return self._sets.get(tenant, self._default)

    def documents(self, tenant: str) -> list[PolicyDocument]:
        """A tenant's documents by name, the built-in one included where it is in force."""
        own = dict(self._documents.get(tenant, {}))
        own.setdefault(DEFAULT_DOCUMENT, self.builtin(tenant))
        return [own[name] for name in sorted(own)]

    def own_documents(self, tenant: str) -> list[str]:
        """Names of all documents stored for a tenant, usable or not."""
        return sorted({*self._documents.get(tenant, {}), *self._broken.get(tenant, {})} - {_TOGETHER})

    def builtin(self, tenant: str) -> PolicyDocument:
        """The built-in document as a tenant sees it: version 0 of `default`."""
        return PolicyDocument(tenant, DEFAULT_DOCUMENT, 0, self.default_text)

    def document(self, tenant: str, name: str) -> PolicyDocument:
        """One document.

        Raises:
            ResourceNotFound: the tenant has none of that name.
        """
        for document in self.documents(tenant):
            if document.name == name:
                return document
        raise ResourceNotFound(f"there is no policy document {name!r}", field="name")

    def faults(self, tenant: str) -> Mapping[str, str]:
        """Why stored documents of a tenant cannot be used, by name."""
        return self._broken.get(tenant, {})

    def knows_group(self, tenant: str, group: str) -> bool:
        """Whether an agent of that group could ever be allowed anything."""
        return group in self._group_names or group in self.of_tenant(tenant).groups()

    def group_names(self, tenant: str) -> list[str]:
        """The groups a tenant's agents may be in."""
        return sorted(self._group_names | self.of_tenant(tenant).groups())

    def check(self, author: Identity, tenant: str, name: str, text: str) -> None:
        """Whether a document may be put.

        Raises:
            InvalidRequest: it is not valid, or would lock its author out of mending it.
        """
        check_document(name, text)
        documents = {document.name: document.text for document in self.documents(tenant)}
        documents[name] = text
        if len(documents) > MAX_DOCUMENTS:
            raise InvalidRequest(f"a tenant may have {MAX_DOCUMENTS} policy documents", field="name")
        if sum(len(each) for each in documents.values()) > MAX_TENANT_CHARS:
            raise InvalidRequest(f"a tenant's policies may have {MAX_TENANT_CHARS} characters", field="text")
        compiled = PolicySet(dict(sorted(documents.items())), self.of_tenant(tenant))
        if author.tenant != tenant:
            return
        decision = compiled.decide(author, _PUT, Resource("Tenant", tenant, "", author.agent), Circumstances())
        if decision.effect != "allow":
            raise InvalidRequest("with this policy you could not change policies any more", field="text")
        self._checked[tenant] = (documents, compiled)

    def is_small_change(self, tenant: str, name: str, text: str) -> bool:
        """Whether `check` takes a millisecond or two: less than to hand it to a thread and back on a busy machine."""
        documents = {document.name: document.text for document in self.documents(tenant)}
        return self.of_tenant(tenant).soon_changed_to({**documents, name: text})

    def put(self, document: PolicyDocument) -> None:
        """Takes a stored document in; it is in force once the tenant was compiled."""
        self._documents.setdefault(document.tenant, {})[document.name] = document
        self._broken.get(document.tenant, {}).pop(document.name, None)
        self.stale.add(document.tenant)

    def unusable(self, tenant: str, name: str, fault: str) -> None:
        """A stored document cannot be read."""
        self._documents.get(tenant, {}).pop(name, None)
        self._broken.setdefault(tenant, {})[name] = fault
        self.stale.add(tenant)

    def remove(self, tenant: str, name: str) -> None:
        """A stored document is no more."""
        self._documents.get(tenant, {}).pop(name, None)
        self._broken.get(tenant, {}).pop(name, None)
        self.stale.add(tenant)

    def texts(self, tenant: str) -> dict[str, str]:
        """A tenant's documents as they are to be compiled; the tenant is not stale any more."""
        self.stale.discard(tenant)
        return {document.name: document.text for document in self.documents(tenant)}

    def compiled(self, tenant: str, texts: Mapping[str, str]) -> PolicySet | None:
        """What a tenant's texts were compiled to when the last of them was checked here, if they are the same."""
        checked = self._checked.pop(tenant, None)
        return checked[1] if checked is not None and checked[0] == texts else None

    def install(self, tenant: str, compiled: PolicySet | InvalidRequest) -> None:
        """Puts what `compiled` made of a tenant's texts in force."""
        broken = self._broken.setdefault(tenant, {})
        broken.pop(_TOGETHER, None)
        if isinstance(compiled, InvalidRequest):
            # Each was checked when it was put; another version of access may have known more operations.
            broken[_TOGETHER] = compiled.message
        if broken or isinstance(compiled, InvalidRequest):
            self._sets[tenant] = self._emergency
        else:
            self._sets[tenant] = compiled

    def refresh(self) -> None:
        """Compiles what is stale, here and now."""
        for tenant in list(self.stale):
            texts = self.texts(tenant)
            self.install(tenant, self.compiled(tenant, texts) or compile_texts(texts, self.of_tenant(tenant)))

    def decide_early(self, identity: Identity, operation: Operation) -> Decision | None:
        """See `PolicySet.decide_early`."""
        return self._sets.get(identity.tenant, self._default).decide_early(identity, operation)

    def decide(
        self,
        identity: Identity,
        operation: Operation,
        resources: tuple[Resource, ...],
        circumstances: Circumstances,
    ) -> Decision:
        """The decision on all resources of a call: the strictest of them."""
        policies = self.of_tenant(identity.tenant)
        strictest = Decision("allow", ())
        for resource in resources:
            decision = policies.decide(identity, operation, resource, circumstances)
            if decision.effect == "deny":
                return decision
            if strictest.effect != "ask":
                strictest = decision
        return strictest


def compile_texts(texts: Mapping[str, str], before: PolicySet) -> PolicySet | InvalidRequest:
    """The policy set of a tenant's documents, or why there is none; see `PolicySet` for what it costs."""
    try:
        return PolicySet(dict(sorted(texts.items())), before)
    except InvalidRequest as error:
        return error

"""What policies decide: by group, agent, resource and circumstances; and which policy texts are refused."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_access import policy_schema
from aios_access.directory import Identity
from aios_access.policies import Policies, PolicyDocument
from aios_access.policy_set import Circumstances, Decision, PolicySet
from aios_access.resources import parse_body, parse_resource, resources_of
from aios_access.settings import DEFAULT_GROUPS
from aios_proto.errors import InvalidRequest, MalformedRequest, ResourceNotFound
from aios_proto.operations import OPERATIONS

ALICE = Identity("acme", "alice", "agent", "0" * 64, 0)
OLGA = Identity("acme", "olga", "operator", "0" * 64, 0)
EVE = Identity("other", "alice", "agent", "0" * 64, 0)


def policies(**documents: str) -> Policies:
    made = Policies(DEFAULT_GROUPS)
    for name, text in documents.items():
        made.check(OLGA, "acme", name, text)
        made.put(PolicyDocument("acme", name, 1, text))
    made.refresh()
    return made


def decide(
    made: Policies,
    operation: str,
    body: Mapping[str, object] | None = None,
    *,
    who: Identity = ALICE,
    tainted: bool = False,
) -> Decision:
    manager, _, name = operation.partition(".")
    found = OPERATIONS[manager, name]
    early = made.decide_early(who, found)
    if early is not None:
        return early
    named = resources_of(manager, parse_body(json.dumps(body or {}).encode()), None, who.tenant, who.agent)
    own = all(resource.owner == who.agent for resource in named)
    return made.decide(who, found, named, Circumstances(tainted=tainted, own=own, program="p"))


def test_a_forbidden_path_is_refused_however_it_is_written_and_others_pass() -> None:
    made = policies(
        secrets='@id("no-secrets") forbid(principal, action in Action::"storage", resource is File)'
        ' when { resource.name like "secret/*" };'
    )
    for path in ("secret/x", "/secret/x", "a/../secret/x", "./secret//x", "secret/"):
        decision = decide(made, "storage.read", {"path": path})
        assert decision == Decision("deny", ("secrets:no-secrets",)), path
    assert decide(made, "storage.read", {"path": "public/x"}).effect == "allow"
    assert decide(made, "storage.move", {"source": "public/x", "target": "secret/x"}).effect == "deny"
    assert decide(made, "storage.move", {"source": "secret/x", "target": "public/x"}).effect == "deny"


def test_two_tenants_with_the_same_text_are_judged_apart() -> None:
    made = Policies(DEFAULT_GROUPS)
    text = 'forbid(principal == Agent::"acme.alice", action == Action::"memory.add", resource);'
    for tenant in ("acme", "other"):
        made.put(PolicyDocument(tenant, "own", 1, text))
    made.refresh()
    assert decide(made, "memory.add").effect == "deny"
    assert decide(made, "memory.add", who=EVE).effect == "allow"
    assert decide(made, "memory.add").effect == "deny"


def test_what_was_checked_is_put_in_force_without_being_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = policies(one="permit(principal, action, resource);")
    made.check(OLGA, "acme", "two", "forbid(principal, action, resource) when { context.tainted };")
    made.put(PolicyDocument("acme", "two", 1, "forbid(principal, action, resource) when { context.tainted };"))

    def compile_again(*_: object) -> object:
        raise AssertionError("compiled again")

    monkeypatch.setattr("aios_access.policies.PolicySet", compile_again)
    made.refresh()
    assert decide(made, "memory.add", tainted=True).effect == "deny"
    assert decide(made, "memory.add").effect == "allow"


TEXTS = (
    "",
    "permit(principal, action, resource);",
    'forbid(principal, action == Action::"memory.add", resource);',
    '@id("no") forbid(principal in Group::"agent", action in [Action::"storage"], resource is File)'
    ' when { resource.name like "secret/*" }; @ask("sure?") permit(principal, action, resource is Tool);',
    '@ask("sure?") @id("ask") permit(principal in Group::"guest", action == Action::"llm.chat", resource);',
    'permit(principal == Agent::"acme.alice", action, resource); forbid(principal, action, resource)'
    " when { context.tainted };",
)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.sampled_from(TEXTS)), max_size=8))
def test_however_documents_changed_they_decide_as_if_they_had_been_put_at_once(
    changes: list[tuple[str, str | None]],
) -> None:
    made, guest = Policies(DEFAULT_GROUPS), Identity("acme", "gus", "guest", "0" * 64, 0)
    documents: dict[str, str] = {}
    for name, text in changes:
        if text is None:
            made.remove("acme", name)
            documents.pop(name, None)
        else:
            made.put(PolicyDocument("acme", name, 1, text))
            documents[name] = text
        made.refresh()
    fresh = PolicySet({"default": made.default_text, **documents})
    for who in (ALICE, guest):
        for operation in (OPERATIONS["memory", "add"], OPERATIONS["llm", "chat"], OPERATIONS["tool", "call"]):
            assert made.decide_early(who, operation) == fresh.decide_early(who, operation)
        for tainted in (False, True):
            file = resources_of("storage", {"path": "secret/x"}, None, "acme", who.agent)
            circumstances = Circumstances(tainted=tainted)
            found = made.decide(who, OPERATIONS["storage", "read"], file, circumstances)
            assert found == fresh.decide(who, OPERATIONS["storage", "read"], file[0], circumstances)


def test_only_a_small_change_of_a_document_that_changed_before_is_quick() -> None:
    made = policies(one="permit(principal, action, resource);")
    made.put(PolicyDocument("acme", "two", 1, TEXTS[3]))
    made.refresh()
    assert made.is_small_change("acme", "two", TEXTS[2])
    assert not made.is_small_change("acme", "one", TEXTS[2])
    assert not made.is_small_change("acme", "two", "// " + "x" * 2000)
    made.check(OLGA, "acme", "one", TEXTS[5])
    made.put(PolicyDocument("acme", "one", 2, TEXTS[5]))
    made.refresh()
    assert made.is_small_change("acme", "one", TEXTS[1])


def test_only_calls_that_a_policy_on_resources_may_concern_are_looked_into() -> None:
    made = policies(
        one='forbid(principal == Agent::"acme.bob", action == Action::"memory.add", resource is Pool);',
        two='forbid(principal in Group::"guest", action == Action::"llm.chat", resource) when { context.tainted };',
    )
    assert made.decide_early(ALICE, OPERATIONS["memory", "add"]) is not None
    assert made.decide_early(ALICE, OPERATIONS["llm", "chat"]) is not None
    bob = Identity("acme", "bob", "agent", "0" * 64, 0)
    assert made.decide_early(bob, OPERATIONS["memory", "add"]) is None
    assert made.decide_early(bob, OPERATIONS["memory", "get"]) is not None
    assert decide(made, "memory.add", {"pool": "team"}, who=bob).effect == "deny"
    assert decide(made, "memory.add", {}, who=bob).effect == "allow"


def test_a_tenants_policies_are_its_own() -> None:
    made = policies(closed='forbid(principal, action == Action::"llm.chat", resource);')
    assert decide(made, "llm.chat").effect == "deny"
    assert decide(made, "llm.chat", who=EVE).effect == "allow"


def test_a_group_of_a_tenants_own_may_do_what_its_policy_says_and_no_more() -> None:
    made = policies(readers='permit(principal in Group::"reader", action in [Action::"reads"], resource is File);')
    reader = Identity("acme", "rita", "reader", "0" * 64, 0)
    assert made.knows_group("acme", "reader")
    assert not made.knows_group("other", "reader")
    assert decide(made, "storage.read", {"path": "x"}, who=reader).effect == "allow"
    assert decide(made, "storage.write", {"path": "x"}, who=reader) == Decision("deny", ())
    assert decide(made, "llm.models", who=reader) == Decision("deny", ())


def test_replacing_the_built_in_document_takes_the_built_in_rights_away() -> None:
    made = policies(default='permit(principal in Group::"operator", action, resource);')
    assert decide(made, "llm.chat").effect == "deny"
    assert decide(made, "llm.chat", who=OLGA).effect == "allow"
    made.remove("acme", "default")
    made.refresh()
    assert decide(made, "llm.chat").effect == "allow"


def test_a_permit_that_asks_lets_pass_only_after_a_human_even_beside_one_that_does_not() -> None:
    made = policies(
        ask='@id("human") @ask permit(principal, action == Action::"tool.call", resource is Tool)'
        ' when { resource.name == "wipe" };'
    )
    decision = decide(made, "tool.call", {"name": "wipe"})
    assert decision.effect == "ask"
    assert "ask:human" in decision.policies
    assert decide(made, "tool.call", {"name": "look"}).effect == "allow"


def test_taint_is_something_a_policy_can_forbid() -> None:
    made = policies(
        contain='forbid(principal, action == Action::"tool.call", resource is Tool) when { context.tainted };'
    )
    assert decide(made, "tool.call", {"name": "x"}).effect == "allow"
    assert decide(made, "tool.call", {"name": "x"}, tainted=True).effect == "deny"


def test_policies_see_whose_file_or_context_it_is() -> None:
    made = policies(
        own='forbid(principal, action in [Action::"storage", Action::"context"], resource)'
        " unless { resource.owner == principal };"
    )
    assert decide(made, "storage.read", {"path": "x"}).effect == "allow"
    assert decide(made, "storage.read", {"path": "~bob/x"}).effect == "deny"
    assert decide(made, "storage.read", {"path": "~alice/x"}).effect == "allow"
    assert decide(made, "context.get", {"context": "c", "owner": "bob"}).effect == "deny"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("permit(", "not Cedar"),
        ('permit(principal, action == Action::"llm.chatter", resource);', "llm.chatter"),
        ("permit(principal, action, resource) when { resource.size > 3 };", "size"),
        ('permit(principal == User::"x", action, resource);', "User"),
        ("permit(principal == ?principal, action, resource);", "template"),
        ('@id("a") permit(principal, action, resource); @id("a") permit(principal, action, resource);', "'a'"),
        ("permit(principal, action, resource) when { context.tainted == 3 };", "new:0: the types Bool and Long"),
        ("forbid(principal, action, resource);", "could not change policies"),
        ("// " + "x" * (128 << 10), "bytes"),
    ],
)
def test_a_policy_that_is_not_valid_is_refused_with_its_fault(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        policies(new=text)
    assert says in caught.value.message
    assert caught.value.field in ("text", "name")


def test_an_operator_cannot_lock_itself_out_but_the_root_may_close_another_tenant() -> None:
    made = policies()
    text = "forbid(principal, action, resource);"
    with pytest.raises(InvalidRequest, match="could not change"):
        made.check(OLGA, "acme", "closed", text)
    made.check(Identity("default", "root", "operator", "0" * 64, 0), "acme", "closed", text)


def test_a_stored_document_that_cannot_be_read_leaves_the_operators_only() -> None:
    made = policies()
    made.unusable("acme", "broken", "what")
    made.refresh()
    assert decide(made, "llm.chat").effect == "deny"
    assert decide(made, "access.policy.put", who=OLGA).effect == "allow"
    assert decide(made, "llm.chat", who=EVE).effect == "allow"
    made.remove("acme", "broken")
    made.refresh()
    assert decide(made, "llm.chat").effect == "allow"


def test_an_empty_document_is_a_document() -> None:
    made = policies(nothing="", comment="// nothing\n")
    assert [document.name for document in made.documents("acme")] == ["comment", "default", "nothing"]
    assert made.document("acme", "nothing").text == ""
    with pytest.raises(ResourceNotFound):
        made.document("acme", "missing")


@pytest.mark.parametrize("body", [b"{", b"[]", b"3", b"\xff", b'"x"'])
def test_a_body_that_is_no_object_is_malformed_where_a_policy_must_look_into_it(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_body(body)


@settings(deadline=None, max_examples=40)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner)))
def test_fields_of_any_type_name_some_resource_and_break_nothing(value: object) -> None:
    body = dict.fromkeys(("path", "model", "context", "pool", "tool", "name", "agent", "tenant", "owner"), value)
    made = policies(x="forbid(principal, action, resource) when { context.priority > 100 };")
    for operation in ("llm.chat", "context.get", "memory.add", "storage.read", "tool.call", "access.whoami"):
        manager, _, name = operation.partition(".")
        named = resources_of(manager, body, None, "acme", "alice")  # type: ignore[arg-type]
        assert made.decide(ALICE, OPERATIONS[manager, name], named, Circumstances()).effect == "allow"


@pytest.mark.parametrize("text", ["notes/x", "Folder::x", "::", ""])
def test_a_resource_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_resource(text, "acme", "alice")


def test_every_policy_on_every_operation_decides_without_an_error_of_cedar() -> None:
    """The entities access makes fit the schema: a condition on any attribute can be evaluated for every operation."""
    made = policies(
        every='forbid(principal, action, resource is File) when { resource.name == "?" || resource.owner == principal'
        ' && principal.name == "?" };'
        'forbid(principal, action, resource is Tool) when { resource.effects.contains("x") };'
        'forbid(principal, action, resource) when { resource in Tenant::"other" };'
        'forbid(principal, action, resource) when { context.program == "?" || !context.own && context.priority > 10 };'
    )
    for operation in OPERATIONS.values():
        assert decide(made, operation.full_name, who=OLGA).effect == "allow", operation.full_name


def test_the_committed_schema_is_the_one_in_force() -> None:
    assert policy_schema.FILE.read_text() == policy_schema.schema(), "run python -m aios_access.policy_schema"

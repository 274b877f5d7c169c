"""What a model's answer about a note changes, and what it cannot."""

import pytest
from pydantic import JsonValue

from aios_memory.core.agentic import ask_description, ask_evolution, described, evolved
from aios_memory.core.note import Note
from aios_proto.errors import EngineFailed


def note(name: str, *tags: str) -> Note:
    return Note(name, f"content of {name}", tags, {}, "alice", 1, 1)


def test_the_callers_tags_stay_and_the_models_are_added() -> None:
    after = described(
        note("a", "mine"), '{"keywords": ["k", "k", " "], "context": " about k ", "tags": ["mine", "new"]}'
    )
    assert (after.tags, after.keywords, after.context) == (("mine", "new"), ("k",), "about k")
    assert after.content == "content of a"


def test_links_and_revisions_name_notes_that_were_shown_only() -> None:
    revisions = '[{"number": 0, "context": "now", "tags": ["t"]}, {"number": 9, "context": "x", "tags": []}]'
    answer = f'{{"links": [1, 1, 7, -1], "revisions": {revisions}}}'
    after = evolved([note("a", "old"), note("b")], answer)
    assert after.links == ("b",)
    assert after.revisions == {"a": ("now", ("old", "t"))}


@pytest.mark.parametrize("answer", ["", "no", "{}", "[]", '{"keywords": 1, "context": "", "tags": []}'])
def test_another_answer_is_an_error(answer: str) -> None:
    with pytest.raises(EngineFailed):
        described(note("a"), answer)
    with pytest.raises(EngineFailed):
        evolved([note("a")], answer)


def test_the_answer_is_constrained_to_the_notes_that_are_shown() -> None:
    question = ask_evolution(note("a"), [note("b"), note("c")])
    properties: JsonValue = question.json_schema["properties"]
    assert isinstance(properties, dict)
    links = properties["links"]
    assert isinstance(links, dict)
    assert links["items"] == {"type": "integer", "minimum": 0, "maximum": 1}
    assert "content of b" in (question.messages[0].content or "")


def test_a_long_note_does_not_overrun_the_prompt() -> None:
    long = Note("a", "x" * 100_000, (), {}, "alice", 1, 1)
    assert len(ask_description(long).messages[0].content or "") < 3000
    assert len(ask_evolution(long, [long] * 5).messages[0].content or "") < 6000

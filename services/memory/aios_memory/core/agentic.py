"""What a model is asked about an agentic note, and what becomes of its answer.

Source: Xu et al., "A-MEM: Agentic Memory for LLM Agents", 2025: a note gets keywords, a context and tags; it is linked
to similar notes that belong with it; and what the similar ones say of themselves may evolve with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from aios_memory.core.note import Note
from aios_proto.errors import EngineFailed
from aios_proto.messages.llm import ChatMessage

MAX_ANSWER_TOKENS: Final = 400
_WORD_CHARS: Final = 40
_CONTEXT_CHARS: Final = 240
_SHOWN_CHARS: Final = 1500
_TAGS: Final = 64

_Word = Annotated[str, Field(max_length=_WORD_CHARS)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


A = TypeVar("A", bound=_Answer)


class Description(_Answer):
    """The first answer: what the note is about."""

    keywords: list[_Word] = Field(max_length=8)
    context: str = Field(max_length=_CONTEXT_CHARS)
    tags: list[_Word] = Field(max_length=5)


class Revision(_Answer):
    """What a neighbour should say of itself now."""

    number: int
    context: str = Field(max_length=_CONTEXT_CHARS)
    tags: list[_Word] = Field(max_length=5)


class Evolution(_Answer):
    """The second answer: which neighbours belong with the note, and which of them change."""

    links: list[int] = Field(max_length=50)
    revisions: list[Revision] = Field(max_length=50)


@dataclass(frozen=True, slots=True)
class Question:
    """One chat call: its turns, and the JSON Schema its answer must follow."""

    messages: list[ChatMessage]
    json_schema: dict[str, JsonValue]


def ask_description(note: Note) -> Question:
    """What is this note about?"""
    text = (
        "Describe the note for later retrieval. Answer with JSON: up to 8 keywords, one sentence of context, up to 5"
        f" short tags.\n\nNote:\n{note.content[:_SHOWN_CHARS]}"
    )
    word: dict[str, JsonValue] = {"type": "string", "minLength": 1, "maxLength": _WORD_CHARS}
    return Question(
        [ChatMessage(role="user", content=text)],
        _object(
            keywords={"type": "array", "items": word, "minItems": 1, "maxItems": 8},
            context={"type": "string", "maxLength": _CONTEXT_CHARS},
            tags={"type": "array", "items": word, "maxItems": 5},
        ),
    )


def ask_evolution(note: Note, neighbours: Sequence[Note]) -> Question:
    """Which of these belong with the note, and what should they say of themselves now?"""
    shown = "\n".join(
        f"{number}. {other.content[: _SHOWN_CHARS // max(1, len(neighbours))]} (context: {other.context or 'none'};"
        f" tags: {', '.join(other.tags) or 'none'})"
        for number, other in enumerate(neighbours)
    )
    text = (
        "A new note was made. Say by number which of the similar notes belong with it (links), and give a new sentence"
        " of context and new tags for those whose meaning it changes (revisions). Answer with JSON.\n\n"
        f"New note:\n{note.content[:_SHOWN_CHARS]}\nContext: {note.context}\n\nSimilar notes:\n{shown}"
    )
    number: dict[str, JsonValue] = {"type": "integer", "minimum": 0, "maximum": len(neighbours) - 1}
    word: dict[str, JsonValue] = {"type": "string", "minLength": 1, "maxLength": _WORD_CHARS}
    revision = _object(
        number=number,
        context={"type": "string", "maxLength": _CONTEXT_CHARS},
        tags={"type": "array", "items": word, "maxItems": 5},
    )
    return Question(
        [ChatMessage(role="user", content=text)],
        _object(
            links={"type": "array", "items": number, "maxItems": len(neighbours)},
            revisions={"type": "array", "items": revision, "maxItems": len(neighbours)},
        ),
    )


def described(note: Note, answer: str) -> Note:
    """The note with what the model says of it; its own tags stay.

    Raises:
        EngineFailed: the answer is not what was asked for.
    """
    said = _read(Description, answer)
    return replace(
        note,
        keywords=tuple(dict.fromkeys(word.strip() for word in said.keywords if word.strip())),
        context=said.context.strip(),
        tags=_joined(note.tags, said.tags),
    )


@dataclass(frozen=True, slots=True)
class Evolved:
    """What becomes of a note and its neighbours; only those that change are named."""

    links: tuple[str, ...]
    revisions: dict[str, tuple[str, tuple[str, ...]]]


def evolved(neighbours: Sequence[Note], answer: str) -> Evolved:
    """The links and revisions of an answer. What it says of notes that were not shown is left out.

    Raises:
        EngineFailed: the answer is not what was asked for.
    """
    said = _read(Evolution, answer)
    links = tuple(dict.fromkeys(neighbours[number].id for number in said.links if 0 <= number < len(neighbours)))
    revisions = {}
    for entry in said.revisions:
        if 0 <= entry.number < len(neighbours):
            other = neighbours[entry.number]
            revisions[other.id] = (entry.context.strip() or other.context, _joined(other.tags, entry.tags))
    return Evolved(links, revisions)


def _read(model: type[A], answer: str) -> A:
    try:
        return model.model_validate_json(answer)
    except ValidationError as error:
        raise EngineFailed("the model did not answer what was asked about a note") from error


def _joined(own: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*own, *(tag.strip() for tag in more if tag.strip()))))[: max(_TAGS, len(own))]


def _object(**properties: JsonValue) -> dict[str, JsonValue]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }

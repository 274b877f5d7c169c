"""What a note is, whose it is, and how it is written down: JSON with a schema version, the same in every store."""

import hashlib
import uuid
from base64 import b32encode
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson
from pydantic import JsonValue

from aios_proto.errors import InternalError

SCHEMA: Final = 1
_CALLS_REMEMBERED: Final = 8
_POINTS: Final = uuid.UUID("5c8a6f5e-0d63-4a5e-9f2e-7d1c0b7a2f11")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose notes: an agent's or a pool's."""

    tenant: str
    kind: Literal["agent", "pool"]
    name: str

    @property
    def key(self) -> str:
        """Names the owner among all; all its records are stored below it."""
        return f"{self.tenant}.{self.kind}.{self.name}"

    @property
    def access_key(self) -> str:
        """Where it is written who else may use them."""
        return f"{self.key}.access"

    @property
    def notes_key(self) -> str:
        """Below it are the notes."""
        return f"{self.key}.note"

    def note_key(self, note: str) -> str:
        """Where one note is stored."""
        return f"{self.notes_key}.{note}"

    def point(self, note: str) -> str:
        """The id of a note's vector, a UUID."""
        return str(uuid.uuid5(_POINTS, self.note_key(note)))


@dataclass(frozen=True, slots=True)
class Note:
    """One note.

    Attributes:
        id: among the owner's notes.
        content: the text.
        tags: in the order given.
        metadata: the caller's own.
        author: the agent that made it.
        created_ms: Unix milliseconds.
        updated_ms: of the last change of content, tags or metadata.
        expires_ms: after this it is gone; None is never.
        keywords: added by the model, as are `context` and `links`.
        wants_model: whether it is agentic and the model has not worked on it yet.
        calls: the last calls that changed it, so that a repeated one changes nothing.
    """

    id: str
    content: str
    tags: tuple[str, ...]
    metadata: dict[str, JsonValue]
    author: str
    created_ms: int
    updated_ms: int
    expires_ms: int | None = None
    keywords: tuple[str, ...] = ()
    context: str = ""
    links: tuple[str, ...] = ()
    wants_model: bool = False
    calls: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What it is found by: content, and what the model added."""
        return "\n".join(part for part in (self.content, self.context, " ".join(self.keywords)) if part)

    @property
    def mark(self) -> str:
        """Of what its vector is made from and stored with; 32 hex digits."""
        return text_hash("\0".join((self.text, *sorted(self.tags))))

    def changed(self, call: str, now_ms: int, **fields: Any) -> "Note":
        """The note after a call changed it."""
        return replace(self, **fields, updated_ms=now_ms, calls=(*self.calls, call)[-_CALLS_REMEMBERED:])

    def encoded(self) -> bytes:
        """As it is stored."""
        return orjson.dumps(
            {
                "v": SCHEMA,
                "id": self.id,
                "content": self.content,
                "tags": self.tags,
                "metadata": self.metadata,
                "author": self.author,
                "created_ms": self.created_ms,
                "updated_ms": self.updated_ms,
                "expires_ms": self.expires_ms,
                "keywords": self.keywords,
                "context": self.context,
                "links": self.links,
                "wants_model": self.wants_model,
                "calls": self.calls,
            }
        )

    @classmethod
    def decoded(cls, data: bytes) -> "Note":
        """From what was stored, by this version or an older one.

        Raises:
            InternalError: it was stored by a newer version, or is no note.
        """
        try:
            said = orjson.loads(data)
            version = said["v"]
            if version != SCHEMA:
                raise InternalError(f"a note of schema {version} cannot be read, only {SCHEMA}")
            return cls(
                id=said["id"],
                content=said["content"],
                tags=tuple(said["tags"]),
                metadata=said["metadata"],
                author=said["author"],
                created_ms=said["created_ms"],
                updated_ms=said["updated_ms"],
                expires_ms=said["expires_ms"],
                keywords=tuple(said["keywords"]),
                context=said["context"],
                links=tuple(said["links"]),
                wants_model=said["wants_model"],
                calls=tuple(said["calls"]),
            )
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise InternalError("a stored note cannot be read") from error


def note_id(tenant: str, agent: str, call_id: str) -> str:
    """The id of the note a call makes: the same call makes the same note, whichever process runs it."""
    digest = hashlib.sha256(f"{tenant}\0{agent}\0{call_id}".encode()).digest()
    return f"m{b32encode(digest[:16]).decode().rstrip('=').lower()}"


def text_hash(text: str) -> str:
    """Names a text; 32 hex digits."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def tag_token(tenant: str, tag: str) -> str:
    """What stands for a tag outside the encrypted records: equal tags of a tenant are equal, and no text is shown."""
    return hashlib.blake2b(tag.encode(errors="surrogatepass"), key=tenant.encode()[:64], digest_size=12).hexdigest()

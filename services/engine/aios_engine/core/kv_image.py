"""How KV leaves the engine and comes back: images of some tokens of a sequence, and which of several go together.

An image is one line of JSON that says whose KV it is and how many bytes follow it, so images may follow each other.
A running generation's KV is read piece by piece. Pieces belong together by the tokens before them, not by their key: a
call that was begun anew elsewhere may have chosen other tokens, and its KV must not meet that of the course before.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import numpy as np
import pydantic
from pydantic import BaseModel, Field

Form: TypeAlias = Literal["rows", "state"]

_FORMAT: Final = "aios-kv-2"
_MAX_HEAD_BYTES: Final = 8 << 20
_DIGEST_CHARS: Final = 32
_ID_BYTES: Final = 4


class _Head(BaseModel):
    format: Literal["aios-kv-2"]
    model: str
    form: Form
    first: int = Field(ge=0)
    before: str
    tokens: list[Annotated[int, Field(ge=0, lt=1 << 32)]] = Field(min_length=1)
    size: int = Field(ge=0, alias="bytes")
    sha256: str


@dataclass(frozen=True, slots=True)
class KvImage:
    """The KV of some tokens of a sequence.

    Attributes:
        form: `rows` of these tokens, which a like engine of any size takes; or llama.cpp's `state` of the whole
            sequence, where the engine does not know how to take rows out of it.
        first: position of the first of the tokens.
        before: digest of the tokens before it.
        tokens: whose KV it is.
        data: the KV.
    """

    form: Form
    first: int
    before: str
    tokens: tuple[int, ...]
    data: bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class KvWanted:
    """Which part of the KV under a key is asked for.

    Attributes:
        after: how many tokens the asker has already.
        digest: of those tokens; where it is another one, all are given.
        max_bytes: of KV; at least one token is given. None is no limit.
    """

    after: int = 0
    digest: str | None = None
    max_bytes: int | None = None

    def part(self, tokens: Sequence[int], token_bytes: int | None) -> tuple[int, int]:
        """The positions of the first token to give, and of the first one not to give; the same where none is new.

        Args:
            tokens: those whose KV there is.
            token_bytes: of one token's KV; None where only the whole can be given.
        """
        if len(tokens) <= self.after:
            return self.after, self.after
        if token_bytes is None:
            return 0, len(tokens)
        first = self.after if self.digest == digest(tokens[: self.after]) else 0
        if self.max_bytes is None:
            return first, len(tokens)
        return first, min(len(tokens), first + max(1, self.max_bytes // token_bytes))


def digest(tokens: Sequence[int]) -> str:
    """A name for a sequence of tokens: SHA-256 of the ids as little-endian u32, the first 32 hexadecimal digits."""
    return _digest(_ids(tokens))


def encode(image: KvImage, model: str) -> bytes:
    """The image as bytes.

    Args:
        image: KV and its tokens.
        model: fingerprint of the model that computed it.
    """
    head = {
        "format": _FORMAT,
        "model": model,
        "form": image.form,
        "first": image.first,
        "before": image.before,
        "tokens": image.tokens,
        "bytes": len(image.data),
        "sha256": hashlib.sha256(image.data).hexdigest(),
    }
    return b"".join((json.dumps(head, separators=(",", ":")).encode(), b"\n", image.data))


def decode(data: bytes, model: str) -> list[KvImage]:
    """The images in bytes.

    Args:
        data: what `encode` gave, once or several times; the images keep it.
        model: fingerprint of the model that is to go on with them.

    Raises:
        ValueError: the bytes are no images, damaged, or of another model.
    """
    images: list[KvImage] = []
    at, view = 0, memoryview(data)
    while at < len(data) or not images:
        end = data.find(b"\n", at, at + _MAX_HEAD_BYTES)
        try:
            head = _Head.model_validate_json(data[at : max(end, at)])
        except pydantic.ValidationError as error:
            raise ValueError("it is no KV image") from error
        if head.model != model:
            raise ValueError(f"it was computed by another model: {head.model}")
        at = end + 1 + head.size
        part = view[end + 1 : at]
        if len(part) != head.size or hashlib.sha256(part).hexdigest() != head.sha256:
            raise ValueError("it is damaged")
        images.append(KvImage(head.form, head.first, head.before, tuple(head.tokens), part))
    return images


def attached(images: Sequence[KvImage]) -> tuple[tuple[int, ...], list[KvImage]]:
    """The tokens that images read one after the other make up, and those of the images that belong to them.

    An image goes behind the tokens that it says are before it, and replaces all from there on; one that says other
    tokens are before it is of another course of the same call, and left out.
    """
    ids, used = bytearray(), []
    for image in images:
        at = image.first * _ID_BYTES
        if at > len(ids) or image.before != _digest(ids[:at]):
            continue
        ids[at:] = _ids(image.tokens)
        used.append(image)
    return tuple(np.frombuffer(ids, "<u4").tolist()), used


def _ids(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, "<u4").tobytes()


def _digest(ids: bytes | bytearray) -> str:
    return hashlib.sha256(ids).hexdigest()[:_DIGEST_CHARS]

"""How held KV leaves the engine and comes back: one line of JSON that says whose it is, then llama.cpp's bytes."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import pydantic
from pydantic import BaseModel, Field

_FORMAT: Final = "aios-kv-1"
_MAX_HEAD_BYTES: Final = 8 << 20


class _Head(BaseModel):
    format: Literal["aios-kv-1"]
    model: str
    tokens: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    sha256: str


@dataclass(frozen=True, slots=True)
class KvImage:
    """The KV of one sequence.

    Attributes:
        tokens: whose KV it is, from position 0.
        state: llama.cpp's bytes.
    """

    tokens: tuple[int, ...]
    state: bytes


def encode(image: KvImage, model: str) -> bytes:
    """The image as bytes.

    Args:
        image: KV and its tokens.
        model: fingerprint of the model that computed it.
    """
    digest = hashlib.sha256(image.state).hexdigest()
    head = _Head(format=_FORMAT, model=model, tokens=list(image.tokens), sha256=digest)
    return head.model_dump_json().encode() + b"\n" + image.state


def decode(data: bytes, model: str) -> KvImage:
    """The image in bytes.

    Args:
        data: what `encode` gave.
        model: fingerprint of the model that is to go on with it.

    Raises:
        ValueError: the bytes are no image, damaged, or of another model.
    """
    end = data.find(b"\n", 0, _MAX_HEAD_BYTES)
    try:
        head = _Head.model_validate_json(data[: max(end, 0)])
    except pydantic.ValidationError as error:
        raise ValueError("it is no KV image") from error
    if head.model != model:
        raise ValueError(f"it was computed by another model: {head.model}")
    state = data[end + 1 :]
    if hashlib.sha256(state).hexdigest() != head.sha256:
        raise ValueError("it is damaged")
    return KvImage(tuple(head.tokens), state)

"""What stands in for a tokenizer and a model's words: four bytes a token, and answers of a length one can ask for.

A prompt may say how long the model would talk by itself: the last `[[tokens=N]]` in it. Without that the length is
drawn from the prompt's own hash, log-normal with a median of 128 tokens, so that the same prompt has the same answer.
"""

import math
import re
import zlib
from collections.abc import Sequence
from statistics import NormalDist

TOKEN_BYTES = 4
BLOCK_TOKENS = 32
"""Tokens of one block of the prefix cache; a prompt shares whole blocks only."""

VOCABULARY = 1 << 35
_LENGTH = re.compile(rb"\[\[tokens=(\d{1,6})\]\]")
_MEDIAN, _SIGMA = 128.0, 0.8
_WORDS = (" so", " it", " goes", " on", " and", " on", " until", " done")


def tokenize(text: str) -> list[int]:
    """Token ids: the bytes, with their number above them, so that the last token can be shorter."""
    raw = text.encode()
    return [
        int.from_bytes(raw[at : at + TOKEN_BYTES], "big") | len(raw[at : at + TOKEN_BYTES]) << 32
        for at in range(0, len(raw), TOKEN_BYTES)
    ]


def piece(token: int) -> bytes:
    """The bytes of a token."""
    return (token & 0xFFFFFFFF).to_bytes(TOKEN_BYTES, "big")[TOKEN_BYTES - (token >> 32) :] if token >> 32 else b""


def word(index: int) -> str:
    """The text of the how-manieth generated token, from 0."""
    return _WORDS[index % len(_WORDS)]


def natural_length(prompt: Sequence[int]) -> int:
    """Tokens after which the model would stop by itself."""
    raw = b"".join(map(piece, prompt))
    asked = _LENGTH.findall(raw)
    if asked:
        return max(1, int(asked[-1]))
    share = (zlib.crc32(raw) + 0.5) / (1 << 32)
    return max(1, round(_MEDIAN * math.exp(_SIGMA * NormalDist().inv_cdf(share))))


def blocks(prompt: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Keys and sizes of a prompt's whole blocks; a key stands for all the prompt up to the block's end."""
    keys = []
    key = 0
    for begin in range(0, len(prompt) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        key = hash((key, *prompt[begin : begin + BLOCK_TOKENS]))
        keys.append(key)
    return tuple(keys), (BLOCK_TOKENS,) * len(keys)

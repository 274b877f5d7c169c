"""What must be known to go on with a generation elsewhere, how it is written, and when it may be used."""

import hashlib
from dataclasses import dataclass

import orjson

from aios_llm.generated import Snapshot
from aios_llm.logprobs import read

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A generation as it was at some moment. The call itself, its sampling and seed are in its request.

    Attributes:
        made: tokens and text so far.
        model: that made them.
        fingerprint: of the engine; ids mean the same to engines with the same one.
        prompt_digest: of the prompt they follow on.
        sent_text: code points the listeners are known to have; 0 where the worker may have died with frames in hand.
        sent_tokens: tokens in those.
        first_token_us: when the first came, Unix microseconds.
        prompt: the prompt itself, where it cannot be made again from the request.
        inherited: how many of its first tokens another call has made.
        sent_scores: log probabilities the listeners are known to have.
        engine: which one made them; empty where it does not tell.
    """

    made: Snapshot
    model: str
    fingerprint: str
    prompt_digest: str
    sent_text: int = 0
    sent_tokens: int = 0
    first_token_us: int | None = None
    prompt: str | None = None
    inherited: int = 0
    sent_scores: int = 0
    engine: str = ""

    def encode(self) -> bytes:
        """As bytes."""
        value: dict[str, object] = {
            "v": _VERSION,
            "ids": self.made.ids,
            "ends": self.made.ends,
            "text": self.made.text,
            "tokens": self.made.tokens,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "prompt_digest": self.prompt_digest,
            "sent_text": self.sent_text,
            "sent_tokens": self.sent_tokens,
            "first_token_us": self.first_token_us,
            "prompt": self.prompt,
            "inherited": self.inherited,
            "engine": self.engine,
        }
        if self.made.scored:
            value["logprobs"] = [orjson.Fragment(token.json) for token in self.made.scored]
            value["sent_logprobs"] = self.sent_scores
        return orjson.dumps(value)


def decode(data: bytes) -> Checkpoint | None:
    """The checkpoint in bytes; None where they were written by another version, or are none."""
    try:
        value = orjson.loads(data)
        if value["v"] != _VERSION:
            return None
        ids, ends = tuple(map(int, value["ids"])), tuple(map(int, value["ends"]))
        text, tokens = str(value["text"]), int(value["tokens"])
        if len(ids) != len(ends) or (ids and (len(ids) != tokens or ends[-1] != len(text))):
            return None
        scored = tuple(map(read, value.get("logprobs", ())))
        return Checkpoint(
            Snapshot(ids, ends, text, tokens, scored),
            model=value["model"],
            fingerprint=value["fingerprint"],
            prompt_digest=value["prompt_digest"],
            sent_text=int(value["sent_text"]),
            sent_tokens=int(value["sent_tokens"]),
            first_token_us=value["first_token_us"],
            prompt=value["prompt"],
            inherited=int(value.get("inherited", 0)),
            sent_scores=int(value.get("sent_logprobs", 0)),
            engine=str(value.get("engine", "")),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def digest(prompt: str) -> str:
    """Tells prompts apart."""
    return hashlib.sha256(prompt.encode(errors="replace")).hexdigest()

"""What servers of OpenAI's API add to it or do otherwise, told apart by what they call themselves in `/v1/models`.

Both known ones fill in sampling values that a request leaves out, llama.cpp its own and vLLM those of the model's
`generation_config.json`, so that all are named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aios_llm.ports import Grammar
from aios_proto.errors import EngineRefused


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of server is spoken to.

    Attributes:
        name: for humans.
        always: fields of every request.
        unsampled: the values that leave sampling alone, for what a call does not name.
        repetition_penalty: its name for that.
        constrains_completions: it holds them to a grammar too, not only chats.
        takes_regex: a grammar may be a regular expression.
        renders: `/apply-template` says what its chat template makes of a conversation.
        tells_slots: `/props` says how many requests it runs together.
    """

    name: str
    always: Mapping[str, Any] = field(default_factory=dict)
    unsampled: Mapping[str, Any] = field(default_factory=dict)
    repetition_penalty: str = "repetition_penalty"
    constrains_completions: bool = False
    takes_regex: bool = False
    renders: bool = False
    tells_slots: bool = False

    def response_format(self, grammar: Grammar) -> dict[str, Any]:
        """The fields that hold an answer to a grammar.

        Raises:
            EngineRefused: it cannot be held to one like this.
        """
        if grammar.kind == "json":
            schema = {"name": "answer", "schema": grammar.value}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        if self.takes_regex:
            return {"structured_outputs": {"regex": grammar.value}}
        raise EngineRefused("this engine offers JSON schemas, not regular expressions", field="response_format")


PLAIN: Final = Dialect("openai")

_VLLM: Final = Dialect(
    "vllm",
    # A chunk may have several tokens. Told to keep stop sequences, it holds no text back: ids and text keep step.
    always={"return_token_ids": True, "include_stop_str_in_output": True},
    unsampled={"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
    constrains_completions=True,
    takes_regex=True,
)
_LLAMA_CPP: Final = Dialect(
    "llama.cpp",
    # It sends text when no stop sequence can begin there and characters are whole; this says how many tokens it is.
    always={"timings_per_token": True},
    unsampled={"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
    repetition_penalty="repeat_penalty",
    renders=True,
    tells_slots=True,
)
_BY_OWNER: Final = {"vllm": _VLLM, "llamacpp": _LLAMA_CPP}


def dialect_of(model: Mapping[str, Any]) -> Dialect:
    """The dialect of a server, by its entry for a model in `/v1/models`."""
    return _BY_OWNER.get(str(model.get("owned_by")), PLAIN)


def total_tokens_of(model: Mapping[str, Any]) -> int:
    """The longest prompt and answer together, by that entry; 0 where it does not say.

    Raises:
        TypeError: it says something else than a number; so does ValueError.
    """
    return int(model.get("max_model_len") or (model.get("meta") or {}).get("n_ctx") or 0)

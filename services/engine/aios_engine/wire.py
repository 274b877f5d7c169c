"""The requests of text-generation-inference's own routes, as JSON carries them.

Fields, types and defaults are those of TGI's `router/src/lib.rs`. Like there, an unknown field is ignored and a value
of the wrong type is an error before anything is validated. `input_ids`, `generated_ids`, `cache_prompt`, `kv_key` and
`kv_from` are ours.
"""

import json
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

U32 = Annotated[int, Field(ge=0, lt=1 << 32)]
U64 = Annotated[int, Field(ge=0, lt=1 << 64)]
KvKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,250}$")]
"""Names held KV."""


class Wire(BaseModel):
    """A part of a request: values keep their JSON types, unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())


class JsonGrammar(Wire):
    """The answer is a document of this JSON Schema, given as an object or as its text."""

    type: Literal["json", "json_object"]
    value: dict[str, JsonValue] | str


class RegexGrammar(Wire):
    """The whole answer matches this regular expression."""

    type: Literal["regex"]
    value: str


class NamedSchema(Wire):
    """A JSON Schema with a name, as in OpenAI's API."""

    name: str | None = None
    schema_: dict[str, JsonValue] = Field(alias="schema")


class JsonSchemaGrammar(Wire):
    """The answer is a document of a named JSON Schema."""

    type: Literal["json_schema"]
    value: NamedSchema


Grammar = Annotated[JsonGrammar | RegexGrammar | JsonSchemaGrammar, Field(discriminator="type")]


class GenerateParameters(Wire):
    """`parameters` of a generation; None is TGI's default for it."""

    best_of: U32 | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: U32 | None = None
    return_full_text: bool | None = None
    stop: list[str] = Field(default_factory=list)
    truncate: U32 | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: U64 | None = None
    top_n_tokens: U32 | None = None
    grammar: Grammar | None = None
    adapter_id: str | None = None


def _absent_parameters() -> GenerateParameters:
    # TGI's quirk: without `parameters` a generation samples, with `parameters` that do not say so it does not.
    return GenerateParameters(do_sample=True)


class GenerateRequest(Wire):
    """Body of `/generate`, `/generate_stream`, `/tokenize` and, with `stream`, of `/`.

    Attributes:
        inputs: the prompt.
        input_ids: token ids to use instead of `inputs`; an extension, announced in `/info`.
        generated_ids: an extension: tokens of the answer that were generated before. The generation goes on behind
            them as if it had not stopped; `max_new_tokens`, stop sequences, grammar and penalties count from the
            beginning of the answer, and so does what is told at its end. Only new tokens are streamed.
        cache_prompt: an extension: whether KV of earlier generations may be taken over.
        kv_key: an extension: if the client leaves before the end, the KV is held under this key.
        kv_from: an extension: where to take held KV from, if there is any; without it, `kv_key`.
    """

    inputs: str = ""
    input_ids: list[U32] | None = None
    generated_ids: list[U32] = Field(default_factory=list)
    cache_prompt: bool = True
    kv_key: KvKey | None = None
    kv_from: KvKey | None = None
    parameters: GenerateParameters = Field(default_factory=_absent_parameters)
    add_special_tokens: bool = True
    stream: bool = False


def grammar_text(value: JsonValue) -> str:
    """A JSON Schema as text, whether it came as an object or as text."""
    return value if isinstance(value, str) else json.dumps(value)


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


OneOrMany = Annotated[list[str], BeforeValidator(_one_or_many)]
"""A list of texts, or one text alone."""

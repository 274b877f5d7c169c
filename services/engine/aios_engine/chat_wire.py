"""The requests of the OpenAI-compatible routes, as text-generation-inference takes them.

Unknown fields are ignored, as are those TGI itself leaves unused (`n`, `logit_bias`, `user`). TGI also ignores
`logprobs` of a completion; it is OpenAI's here.
"""

from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field, JsonValue

from aios_engine.wire import U32, U64, NamedSchema, OneOrMany, Wire


class StreamOptions(Wire):
    """What a stream tells beside its text."""

    include_usage: bool = False


class ToolFunction(Wire):
    """A function the model may call, with the JSON Schema of its arguments."""

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, validation_alias=AliasChoices("parameters", "arguments")
    )


class Tool(Wire):
    """One entry of `tools`."""

    type: Literal["function"] = "function"
    function: ToolFunction

    def described(self) -> dict[str, JsonValue]:
        """The tool as templates describe it."""
        function = self.function
        return {
            "type": "function",
            "function": {
                "name": function.name,
                "description": function.description,
                "parameters": function.parameters,
            },
        }


class FunctionName(Wire):
    """The name of a function."""

    name: str


class NamedTool(Wire):
    """The choice of one function."""

    type: Literal["function"] = "function"
    function: FunctionName


def _tool_choice(value: object) -> object:
    # TGI takes the name of a function where OpenAI wants an object.
    if isinstance(value, str) and value not in ("auto", "none", "required"):
        return {"function": {"name": value}}
    return value


ToolChoice = Annotated[Literal["auto", "none", "required"] | NamedTool, BeforeValidator(_tool_choice)]


class TextFormat(Wire):
    """Any text."""

    type: Literal["text"]


class JsonFormat(Wire):
    """A JSON document: of the schema in `value`, or any object."""

    type: Literal["json_object", "json"]
    value: dict[str, JsonValue] | str | None = None


class RegexFormat(Wire):
    """Text that matches a regular expression."""

    type: Literal["regex"]
    value: str


class JsonSchemaFormat(Wire):
    """A JSON document of a named schema: under `json_schema` as OpenAI has it, or `value` as TGI has it."""

    type: Literal["json_schema"]
    json_schema: NamedSchema = Field(validation_alias=AliasChoices("json_schema", "value"))


ResponseFormat = Annotated[TextFormat | JsonFormat | RegexFormat | JsonSchemaFormat, Field(discriminator="type")]


class Message(Wire):
    """One turn; its other fields reach the template as they are."""

    role: str
    content: str | list[dict[str, JsonValue]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, JsonValue]] | None = None
    tool_call_id: str | None = None


class ChatRequest(Wire):
    """Body of `/v1/chat/completions` and `/chat_tokenize`."""

    messages: list[Message]
    model: str | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: U32 | None = None
    max_tokens: U32 | None = None
    max_completion_tokens: U32 | None = None
    stop: OneOrMany | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    seed: U64 | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[Tool] | None = None
    tool_prompt: str | None = None
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None


class CompletionRequest(Wire):
    """Body of `/v1/completions`."""

    prompt: OneOrMany
    model: str | None = None
    max_tokens: U32 | None = None
    stop: OneOrMany | None = None
    stream: bool = False
    seed: U64 | None = None
    temperature: float | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: U32 | None = None
    suffix: str | None = None

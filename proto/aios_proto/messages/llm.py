"""Model calls: `llm.chat`, `llm.complete`, `llm.embed`, `llm.models`; parameters are named as in OpenAI's API."""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from aios_proto.messages.base import Body, Result
from aios_proto.names import Name, SyscallId

FinishReason = Literal["stop", "length", "tool_calls"]

MAX_NEW_TOKENS = 131_072
MAX_STOP_SEQUENCES = 4
"""As many as TGI and OpenAI's API take."""

MAX_TOP_LOGPROBS = 20
"""As many as OpenAI's API takes; many engines take fewer, TGI 5 unless told otherwise."""


class FunctionCall(Body):
    """A tool the model wants to call."""

    name: str
    arguments: str = Field(description="a JSON object as text, as the model wrote it")


class ToolCall(Body):
    """One entry of an assistant turn's `tool_calls`."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _has_content(self) -> "ChatMessage":
        if self.content is None and not self.tool_calls:
            msg = "a turn needs content or tool_calls"
            raise ValueError(msg)
        return self


class FunctionDefinition(Body):
    """A tool offered to the model."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, JsonValue] = Field(default_factory=dict, description="JSON Schema of the arguments")


class ToolDefinition(Body):
    """One entry of a chat call's `tools`."""

    type: Literal["function"] = "function"
    function: FunctionDefinition


class JsonSchemaFormat(Body):
    """The answer must be a JSON document of this schema."""

    type: Literal["json_schema"]
    json_schema: dict[str, JsonValue]


class RegexFormat(Body):
    """The answer must match this regular expression, whole."""

    type: Literal["regex"]
    regex: str


ResponseFormat = Annotated[JsonSchemaFormat | RegexFormat, Field(discriminator="type")]


class Generation(Body):
    """What `llm.chat` and `llm.complete` have in common."""

    model: str | None = Field(None, description="None means the pool's default model")
    pool: Name | None = Field(
        None, description="the pool of workers that must run it; any that serves its model where not given"
    )
    max_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS, description="None means the worker's default")
    temperature: float | None = Field(None, ge=0, le=10, description="None or 0 is greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    repetition_penalty: float | None = Field(None, gt=0)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list, max_length=MAX_STOP_SEQUENCES)
    seed: int | None = Field(
        None, ge=0, lt=1 << 53, description="None takes one from the call's id, so that a repeated run is the same"
    )
    response_format: ResponseFormat | None = None
    logprobs: bool = Field(False, description="whether to tell how likely each token of the answer was")
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="how many of the likeliest tokens to tell at each place; needs `logprobs`",
    )
    stream: bool = Field(True, description="whether `delta` frames are wanted; the result is the same")
    continue_from: SyscallId | None = Field(
        None,
        description="a call of the caller's own that was cancelled with `keep`: the answer begins with what it had "
        "made. The rest of the body asks what that call asked; how the answer goes on may be chosen anew. `max_tokens` "
        "counts the whole answer, `usage` counts the beginning as part of the prompt.",
    )

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("logprobs") is False:
            raise ValueError("needs `logprobs`: true")
        return value


class ChatRequest(Generation):
    """`llm.chat`: one assistant turn after `messages`."""

    messages: list[ChatMessage] = Field(min_length=1)
    tools: list[ToolDefinition] | None = None
    tool_choice: Literal["auto", "none", "required"] | None = None


class CompleteRequest(Generation):
    """`llm.complete`: goes on from a text, without a chat template."""

    prompt: str = Field(min_length=1)


class TopLogprob(Result):
    """A token and how likely it was at its place."""

    token: str = Field(description="its text; of a token that is no whole character it may be empty, or U+FFFD")
    logprob: float = Field(description="natural logarithm of its probability, to six decimals")
    bytes: list[int] | None = Field(
        None, description="its bytes, where they are not the UTF-8 of `token` and the engine tells them"
    )


class TokenLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob] = Field(
        default_factory=list,
        description="the likeliest tokens at its place, the likeliest first; the token itself need not be among them",
    )


_LOGPROBS = Field(
    None,
    description="one entry for each token of the answer, in order, where `logprobs` was asked for. A token that ended "
    "the turn is among them; those of a stop sequence, whose text is not part of the answer, are not",
)


class ChatResult(Result):
    """The assistant's turn."""

    message: ChatMessage
    finish_reason: FinishReason
    model: str
    logprobs: list[TokenLogprob] | None = _LOGPROBS


class CompleteResult(Result):
    """The text that follows the prompt."""

    text: str
    finish_reason: FinishReason
    model: str
    logprobs: list[TokenLogprob] | None = _LOGPROBS


class EmbedRequest(Body):
    """`llm.embed`: one vector per text. A text longer than the model reads is cut at its end, and not refused."""

    texts: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, max_length=1024)
    model: str | None = None


class EmbedResult(Result):
    """Vectors of length one in the order of the texts, numbers to six decimals; comparable under one `model` only."""

    vectors: list[list[float]]
    dimensions: int
    model: str


class TokenizeRequest(Body):
    """`llm.tokenize`: how many tokens texts have for a model."""

    texts: list[str] = Field(max_length=4096)
    model: str | None = Field(None, description="None lets any model answer")


class TokenizeResult(Result):
    """Counts in the order of the texts, and what a conversation costs beside the texts of its turns."""

    counts: list[int]
    turn_overhead_tokens: int = Field(ge=0, description="what the chat template adds to each turn")
    prompt_overhead_tokens: int = Field(ge=0, description="what it adds once to a conversation")
    max_input_tokens: int
    max_total_tokens: int
    model: str


class ModelInfo(Result):
    """A model some live worker serves."""

    model: str
    pool: str
    workers: int
    max_input_tokens: int
    max_total_tokens: int


class ModelsResult(Result):
    """`llm.models`: what can be asked for now."""

    models: list[ModelInfo]


def body_json(body: Body) -> dict[str, Any]:
    """A request as the JSON object to send: fields left at None are left out."""
    return body.model_dump(mode="json", exclude_none=True)

"""What can go wrong in the engine, with the `error_type` and HTTP status text-generation-inference gives it.

Source: `impl From<InferError> for (StatusCode, Json<ErrorResponse>)` in TGI's `router/src/server.rs`.
"""

from typing import ClassVar


class EngineError(Exception):
    """Root of everything a request can fail with.

    Attributes:
        error_type: TGI's word for the family; Hugging Face's client maps it to an exception class.
        status: HTTP status where the answer is not a stream.
    """

    error_type: ClassVar[str] = "unknown"
    status: int = 500

    def body(self) -> dict[str, str]:
        """The JSON body of the answer."""
        return {"error": str(self), "error_type": self.error_type}


class ValidationError(EngineError):
    """The request is wrong and would be wrong again."""

    error_type = "validation"
    status = 422

    def __init__(self, message: str) -> None:
        super().__init__(f"Input validation error: {message}")


class GenerationError(EngineError):
    """The model failed while it worked on this request."""

    error_type = "generation"
    status = 424

    def __init__(self, message: str) -> None:
        super().__init__(f"Request failed during generation: {message}")


class OverloadedError(EngineError):
    """More requests are being served than allowed."""

    error_type = "overloaded"
    status = 429

    def __init__(self) -> None:
        super().__init__("Model is overloaded")


class IncompleteGenerationError(EngineError):
    """The generation stopped without its last token: the engine is shutting down."""

    error_type = "incomplete_generation"
    status = 500

    def __init__(self) -> None:
        super().__init__("Incomplete generation")


class TemplateRejectedError(EngineError):
    """The chat template refuses the conversation."""

    error_type = "template_error"
    status = 422

    def __init__(self, message: str) -> None:
        super().__init__(f"Template error: {message}")


class ToolError(EngineError):
    """The tools cannot be offered, or what was generated is not a call of one."""

    error_type = "tool_error"
    status = 422

    def __init__(self, message: str) -> None:
        super().__init__(f"Tool error: {message}")


class MalformedBodyError(EngineError):
    """The body is not the JSON this route takes; TGI answers these before it validates anything."""

    error_type = "validation"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status  # 400, 413, 415 or 422, by what is wrong with the body


class KvUnknownError(EngineError):
    """No KV is held under a key."""

    error_type = "kv_unknown"
    status = 404

    def __init__(self) -> None:
        super().__init__("no KV is held under this key")


class UnhealthyError(EngineError):
    """The model is not loaded yet, or the engine is shutting down."""

    error_type = "healthcheck"
    status = 503


class SetupError(Exception):
    """The engine cannot start; the message says what to do."""

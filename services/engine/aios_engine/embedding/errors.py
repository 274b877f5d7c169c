"""What a request for embeddings can fail with, with text-embeddings-inference's `error_type` and HTTP status.

Source: `impl From<&ErrorType> for StatusCode` in TEI's `router/src/lib.rs`.
"""

from aios_engine.errors import EngineError


class InputTooLongError(EngineError):
    """A text, or the list of texts, is longer than the server takes."""

    error_type = "validation"
    status = 413


class EmptyInputError(EngineError):
    """There is no text to embed."""

    error_type = "empty"
    status = 400


class EmbeddingFailedError(EngineError):
    """The model failed on this request."""

    error_type = "backend"
    status = 424

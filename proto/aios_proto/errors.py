"""Every error that can cross the wire, in families with a stable code, and its way there and back.

A service raises one of these classes; the caller's SDK raises the same class with the same fields. `code` is the
contract: it never changes its meaning. `retryable` says whether sending the same call again may succeed.
"""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class ErrorBody(BaseModel):
    """An error as it travels in an `error` frame."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str = Field(description="stable, dotted: family.reason", examples=["request.invalid"])
    message: str = Field(description="one sentence for a human; never contains secrets")
    retryable: bool = Field(description="whether the same call may succeed later")
    field: str | None = Field(None, description="path of the offending field or header, for example `messages.0.role`")
    retry_after_s: float | None = Field(None, ge=0, description="seconds to wait before trying again")
    syscall_id: str | None = None
    trace_id: str | None = Field(None, description="32 hex digits; look it up with `aios trace`")


class AiosError(Exception):
    """Root of all errors of AIOS.

    Attributes:
        code: the stable wire code.
        message: one sentence for a human.
        retryable: whether the same call may succeed later.
        field: path of the offending field, where the caller's input is at fault.
        retry_after_s: seconds to wait before trying again, where known.
        syscall_id: the call this error ended, where known.
        trace_id: the trace that shows how it came about, where known.
    """

    code: str = "internal"
    default_retryable: ClassVar[bool] = False
    _by_code: ClassVar[dict[str, type["AiosError"]]] = {}

    def __init_subclass__(cls) -> None:
        """Registers the class under its own code, so that the wire form can be turned back into it."""
        super().__init_subclass__()
        if "code" in cls.__dict__:
            AiosError._by_code[cls.code] = cls

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        syscall_id: str | None = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after_s = retry_after_s
        self.syscall_id = syscall_id
        self.trace_id = trace_id

    def __str__(self) -> str:
        where = f" (field {self.field})" if self.field else ""
        return f"{self.code}: {self.message}{where}"

    def body(self, *, syscall_id: str | None = None, trace_id: str | None = None) -> ErrorBody:
        """The wire form; the given ids fill in those the error does not carry itself."""
        return ErrorBody(
            code=self.code,
            message=self.message,
            retryable=self.retryable,
            field=self.field,
            retry_after_s=self.retry_after_s,
            syscall_id=self.syscall_id or syscall_id,
            trace_id=self.trace_id or trace_id,
        )

    @staticmethod
    def from_body(body: ErrorBody) -> "AiosError":
        """The exception for a wire error: its own class, else its family's, always with the code it came with."""
        cls = AiosError._by_code.get(body.code) or AiosError._by_code.get(body.code.split(".")[0]) or AiosError
        error = cls(
            body.message,
            field=body.field,
            retryable=body.retryable,
            retry_after_s=body.retry_after_s,
            syscall_id=body.syscall_id,
            trace_id=body.trace_id,
        )
        error.code = body.code
        return error


class InternalError(AiosError):
    """A handler failed in a way nobody foresaw. The trace id leads to the log line with the cause."""

    code = "internal"


class RequestError(AiosError):
    """Family `request`: the call itself is at fault; sending it again unchanged will fail again."""

    code = "request"


class MalformedRequest(RequestError):
    """The body is not JSON, or not a JSON object."""

    code = "request.malformed"


class InvalidRequest(RequestError):
    """A field or header is missing, unknown, of the wrong type or out of range; `field` names it."""

    code = "request.invalid"


class RequestTooLarge(RequestError):
    """The body is larger than the bus carries; put large content into storage and name it."""

    code = "request.too_large"


class UnknownManager(RequestError):
    """No manager of that name exists."""

    code = "request.unknown_manager"


class UnknownOperation(RequestError):
    """The manager exists, the operation does not."""

    code = "request.unknown_operation"


class UnsupportedProtocol(RequestError):
    """The call's `Aios-Proto` version is not spoken here."""

    code = "request.unsupported_protocol"


class AccessError(AiosError):
    """Family `access`: who is calling, or what they may do, is at fault."""

    code = "access"


class Unauthenticated(AccessError):
    """The bus did not accept the credential."""

    code = "access.unauthenticated"


class AccessDenied(AccessError):
    """The agent's group may not perform this operation on this resource."""

    code = "access.denied"


class ReplyForbidden(AccessError):
    """The reply subject lies outside the caller's own inbox."""

    code = "access.reply_forbidden"


class ApprovalDenied(AccessError):
    """A human refused the call, or did not answer in time."""

    code = "access.approval_denied"


class QuotaError(AiosError):
    """Family `quota`: a limit on use was reached."""

    code = "quota"
    default_retryable = True


class QuotaExhausted(QuotaError):
    """A hard quota of the tenant, agent or program is used up until `retry_after_s`."""

    code = "quota.exhausted"
    default_retryable = True


class QueueError(AiosError):
    """Family `queue`: the scheduler cannot take the call now."""

    code = "queue"
    default_retryable = True


class QueueFull(QueueError):
    """The bounded queue of the tenant or the pool is full; wait `retry_after_s`."""

    code = "queue.full"
    default_retryable = True


class DeadlineError(AiosError):
    """Family `deadline`: time ran out, or would."""

    code = "deadline"


class DeadlineExceeded(DeadlineError):
    """The call's deadline passed before it could end."""

    code = "deadline.exceeded"


class DeadlineUnmeetable(DeadlineError):
    """The admission test says that the deadline cannot be met with the work already queued."""

    code = "deadline.unmeetable"


class SyscallError(AiosError):
    """Family `syscall`: about a call as such, whatever it asked for."""

    code = "syscall"


class SyscallCancelled(SyscallError):
    """The call was cancelled by its owner."""

    code = "syscall.cancelled"


class SyscallUnknown(SyscallError):
    """No call of that id is known for this agent (any more)."""

    code = "syscall.unknown"


class DependencyError(AiosError):
    """Family `dependency`: about calls that wait for other calls."""

    code = "dependency"


class DependencyFailed(DependencyError):
    """A call this one waits for failed; the message carries the cause."""

    code = "dependency.failed"


class DependencyCycle(DependencyError):
    """The calls would wait for each other for ever."""

    code = "dependency.cycle"


class BusError(AiosError):
    """Family `bus`: the bus, or what it stores, cannot be reached: by the client, or by access for it."""

    code = "bus"
    default_retryable = True


class BusUnavailable(BusError):
    """The bus cannot be reached, or the connection was lost and did not come back in time."""

    code = "bus.unavailable"
    default_retryable = True


class ManagerError(AiosError):
    """Family `manager`: the service behind the call."""

    code = "manager"
    default_retryable = True


class ManagerUnavailable(ManagerError):
    """No running service offers this operation now."""

    code = "manager.unavailable"
    default_retryable = True


class EngineError(AiosError):
    """Family `engine`: the inference engine behind a worker."""

    code = "engine"
    default_retryable = True


class EngineUnavailable(EngineError):
    """The engine cannot be reached or is not ready."""

    code = "engine.unavailable"
    default_retryable = True


class EngineOverloaded(EngineError):
    """The engine refused the request because it is full."""

    code = "engine.overloaded"
    default_retryable = True


class EngineRefused(EngineError):
    """The engine refused the request as invalid: input too long, a grammar it cannot compile, an unknown adapter."""

    code = "engine.refused"
    default_retryable = False


class EngineFailed(EngineError):
    """The engine began and failed: a stream that ended without its details, an error event."""

    code = "engine.failed"
    default_retryable = True


class ModelUnknown(EngineError):
    """No worker serves a model of that name."""

    code = "engine.model_unknown"
    default_retryable = False


class WorkerLost(EngineError):
    """Workers died under the call more often than it is tried again."""

    code = "engine.worker_lost"
    default_retryable = True


class ResourceError(AiosError):
    """Family `resource`: a context, memory, file, tool or agent named by the call."""

    code = "resource"


class ResourceNotFound(ResourceError):
    """What the call names does not exist, or is not visible to the caller."""

    code = "resource.not_found"


class ResourceConflict(ResourceError):
    """It exists already, or changed since the caller read it."""

    code = "resource.conflict"


class ToolError(AiosError):
    """Family `tool`: a tool called by an agent."""

    code = "tool"


class ToolFailed(ToolError):
    """The tool ran and failed, or its owner was lost while it ran."""

    code = "tool.failed"


class ToolInvalidOutput(ToolError):
    """The tool answered something its own output schema does not allow."""

    code = "tool.invalid_output"


class ToolUnavailable(ToolError):
    """Nobody serves the tool now, or it failed so often that it is left alone for `retry_after_s`."""

    code = "tool.unavailable"
    default_retryable = True


class ToolForbidden(ToolError):
    """The tool refuses what it was asked: an address or a path outside what it may reach."""

    code = "tool.forbidden"


class ToolLimitExceeded(ToolError):
    """The tool was stopped at a limit: time, memory, output or processes."""

    code = "tool.limit_exceeded"


def wire_codes() -> dict[str, type[AiosError]]:
    """All codes that can cross the wire with their classes; families (no dot, but for `internal`) are left out."""
    return {code: cls for code, cls in sorted(AiosError._by_code.items()) if "." in code or code == "internal"}

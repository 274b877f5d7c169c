"""What kernel services tell each other: presence, worker reports, facts. Not for agents."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from aios_proto.frames import Usage
from aios_proto.messages.base import Body, Result
from aios_proto.names import Name, SyscallId

CallKey = Annotated[str, Field(max_length=200, description="`<tenant>.<agent>.<id>`: names a call among all calls")]


class _Kernel(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


PRESENCE_INTERVAL_S = 1.0
PRESENCE_TIMEOUT_S = 5.0
"""A service not heard of for this long is taken as gone: five heartbeats, so a busy machine raises no false alarm."""

WORKER_INTERVAL_S = 0.5
WORKER_TIMEOUT_S = 3.0


class Presence(_Kernel):
    """An instance lives and serves these operations of its manager; `leaving` says goodbye."""

    manager: Name
    instance: Name
    operations: list[str]
    leaving: bool = False


class WorkerHello(_Kernel):
    """A worker lives. Sent at the start and every half second, with what the scheduler must know to place calls.

    `running` names the calls it works on, so that a restarted scheduler knows them, and a call whose `run` was lost
    on the way is noticed.
    """

    type: Literal["hello"] = "hello"
    pool: Name
    worker: Name
    incarnation: str = Field(description="changes with every start of the process")
    model: str
    engine: str = Field(description="kind and version of the engine, for humans")
    in_flight_limit: int = Field(ge=1, description="calls it wants at once")
    max_input_tokens: int
    max_total_tokens: int
    kv_tokens: int | None = Field(None, description="tokens that fit its KV cache, where the engine tells")
    can_preempt: bool = Field(False, description="it can stop a call so that a worker goes on with it later")
    ready: bool = True
    engine_id: str = Field(
        "",
        max_length=128,
        description="the same for workers that share an engine: together they get what it takes; empty if unknown",
    )
    running: dict[CallKey, int] = Field(default_factory=dict, description="tokens made so far by each running call")


class WorkerBye(_Kernel):
    """A worker stops and has ended all its calls."""

    type: Literal["bye"] = "bye"
    pool: Name
    worker: Name
    incarnation: str


class CallEnded(_Kernel):
    """A worker has sent the caller the last frame of a call."""

    type: Literal["ended"] = "ended"
    pool: Name
    worker: Name
    key: CallKey
    attempt: int
    outcome: Literal["done", "error", "cancelled", "deadline"]
    code: str | None = None
    usage: Usage | None = None
    tool: str = Field("", description="name of the tool the answer asks for; empty where it asks for none")


class CallResult(_Kernel):
    """The caller of a call that others wait for has its result: they need not wait until it is stored.

    `CallEnded` follows. Sent only where the last frame is short.
    """

    type: Literal["result"] = "result"
    pool: Name
    worker: Name
    key: CallKey
    frame: str = Field(description="the last frame that the caller got")


class CallReturned(_Kernel):
    """A worker could not run a call and has sent the caller nothing final: the scheduler decides what happens next."""

    type: Literal["returned"] = "returned"
    pool: Name
    worker: Name
    key: CallKey
    attempt: int
    reason: Literal["overloaded", "unavailable", "draining", "failed", "preempted"]
    message: str = ""
    retry_after_s: float = 0.0
    tokens: int = Field(0, description="tokens made so far by a call that was preempted")


WorkerReport = Annotated[WorkerHello | WorkerBye | CallResult | CallEnded | CallReturned, Field(discriminator="type")]
WORKER_REPORT: TypeAdapter[WorkerHello | WorkerBye | CallResult | CallEnded | CallReturned] = TypeAdapter(WorkerReport)


class CancelCommand(_Kernel):
    """Scheduler to worker: end this call; one that is `paused` is cancelled, and what it has made is kept."""

    key: CallKey
    reason: Literal["cancelled", "paused", "deadline"]


class PreemptCommand(_Kernel):
    """Scheduler to worker: stop this call and return it as `preempted`."""

    key: CallKey


class AttachCommand(_Kernel):
    """Scheduler to worker: send this call's frames to another inbox too, from a place on."""

    key: CallKey
    reply: str
    text_offset: int = 0


class DecisionFact(_Kernel):
    """Event `scheduler.dispatched`, `scheduler.preempted` or `scheduler.refused`: what was decided about a call."""

    id: SyscallId
    agent: Name
    program: str
    policy: str
    worker: str | None = None
    attempt: int = 0
    waited_ms: int = Field(description="since the scheduler had the call")
    code: str | None = Field(None, description="of the error, where it was refused")
    at_ms: int


class CallEnd(_Kernel):
    """A manager has sent the caller the last frame of a call. Holds no content.

    Sent over core NATS: one that is lost on the way is missing from the audit log, where the call's decision stands.
    """

    key: CallKey
    operation: str
    code: str | None = Field(None, description="of the error; None where it was done")
    program: str | None = None
    trace_id: str | None = None
    untrusted: bool = Field(False, description="the answer was said to hold content that must not steer the agent")
    at_us: int = Field(description="Unix time in microseconds")


class RedeemRequest(Body):
    """Kernel call `access.redeem`: may this holder run the call that was approved?"""

    approval_id: str
    holder: str = Field(description="names the one delivery of the call that asks; asking again gives the same answer")


class RedeemResult(Result):
    """Whether it was the first to ask."""

    first: bool


class CallFact(_Kernel):
    """Event `syscall.completed`, `syscall.failed` or `syscall.denied`: how a call ended. Holds no content."""

    id: SyscallId
    agent: Name
    operation: str
    program: str | None = None
    code: str | None = None
    usage: Usage | None = None
    worker: str | None = None
    trace_id: str | None = None
    at_ms: int

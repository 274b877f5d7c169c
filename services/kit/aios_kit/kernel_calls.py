"""How one kernel service asks another for work, in the name of the agent whose call it is serving.

The call carries the identity access stamped on the first one, so quotas, fairness and traces count it for that agent;
it does not pass access again. Kernel services answer each other at `_INBOX_AIOS.<role>.call.<process>.<token>`.
"""

import asyncio
import secrets
import time
from dataclasses import replace
from typing import TypeVar

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from aios_kit.tracing import Tracing
from aios_proto import subjects, telemetry
from aios_proto.errors import (
    AiosError,
    BusUnavailable,
    DeadlineExceeded,
    ErrorBody,
    InternalError,
    ManagerUnavailable,
    SyscallCancelled,
)
from aios_proto.headers import CallHeaders
from aios_proto.ids import new_syscall_id
from aios_proto.messages.base import Body, Result

R = TypeVar("R", bound=Result)

DEFAULT_DEADLINE_S = 10.0
_NO_RESPONDERS = "503"


class KernelCalls:
    """The calls one service makes to others.

    Args:
        role: the calling service; names its inbox.
        tracing: makes one span a call.
    """

    def __init__(self, role: str, tracing: Tracing) -> None:
        self._tracing = tracing
        self._inbox = f"{subjects.kernel_call_inbox(role)}.{secrets.token_hex(6)}."
        self._nc: Client | None = None
        self._open: dict[str, asyncio.Future[bytes]] = {}

    async def open(self, nc: Client) -> None:
        """Listens for answers on this connection."""
        self._nc = nc
        await nc.subscribe(self._inbox + "*", cb=self._on_answer)

    def connection_lost(self) -> None:
        """Fails the calls whose answers may be lost with the connection they were to come on."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(BusUnavailable("the connection to the bus was lost while the call was open"))

    async def call(
        self,
        manager: str,
        operation: str,
        body: Body,
        result: type[R],
        *,
        on_behalf: CallHeaders,
        deadline_s: float = DEFAULT_DEADLINE_S,
        priority: int | None = None,
        call_id: str | None = None,
        context: str | None = None,
        subject: str | None = None,
    ) -> R:
        """Makes one call and waits for its result; pieces of a streamed answer are left out.

        Args:
            manager: such as `llm`.
            operation: such as `embed`.
            body: the request.
            result: model of the result.
            on_behalf: of the call that is being served: whose identity, program, priority and trace this one has. It
                is answered by the earlier of its deadline and `deadline_s`.
            deadline_s: seconds to wait at most.
            priority: 0 to 9; None is that of `on_behalf`.
            call_id: makes a repeated call the same call; None is a fresh id.
            context: id of a context the call works on.
            subject: where the call goes; None is where the operation's calls come to.

        Raises:
            ManagerUnavailable: nobody serves the operation now.
            DeadlineExceeded: there was no answer in time; a model call is cancelled then.
            BusUnavailable: the connection to the bus is away or was lost meanwhile.
            AiosError: what the other service answered.
        """
        nc = self._nc
        if nc is None or not nc.is_connected:
            raise BusUnavailable("the bus is not connected")
        give_up_s = deadline_s
        if on_behalf.deadline_ms is not None:
            give_up_s = min(give_up_s, on_behalf.deadline_ms / 1000 - time.time())
        name = f"{manager}.{operation}"
        if give_up_s <= 0:
            raise DeadlineExceeded(f"{name} could not begin before the call's deadline")
        token = secrets.token_hex(8)
        headers = CallHeaders(
            id=call_id or new_syscall_id(),
            program=on_behalf.program,
            priority=on_behalf.priority if priority is None else priority,
            deadline_ms=int((time.time() + give_up_s) * 1000),
            context=context,
            durability="volatile",
            traceparent=on_behalf.traceparent,
            tracestate=on_behalf.tracestate,
            tenant=on_behalf.tenant,
            agent=on_behalf.agent,
            group=on_behalf.group,
            taint=on_behalf.taint,
            reply=self._inbox + token,
        )
        hop = self._tracing.hop(
            name, headers.traceparent, kind=SpanKind.CLIENT, attributes={telemetry.SYSCALL_ID: headers.id}
        )
        failure: AiosError | None = None
        answer = self._open[token] = asyncio.get_running_loop().create_future()
        try:
            stamped = replace(headers, traceparent=hop.traceparent).to_wire()
            target = subjects.kernel(manager, operation) if subject is None else subject
            await nc.publish(target, body.model_dump_json(exclude_none=True).encode(), headers.reply, stamped)
            async with asyncio.timeout(give_up_s):
                return _result(name, await answer, result)
        except TimeoutError as error:
            await self._cancel(nc, manager, headers)
            failure = DeadlineExceeded(f"{name} did not answer within {give_up_s:.3g} s")
            raise failure from error
        except asyncio.CancelledError:
            failure = SyscallCancelled(f"{name} was given up")
            await self._cancel(nc, manager, headers)
            raise
        except NatsError as error:
            failure = BusUnavailable(f"the bus did not take the call: {error}")
            raise failure from error
        except AiosError as error:
            failure = error
            raise
        finally:
            del self._open[token]
            hop.end(failure)

    async def _cancel(self, nc: Client, manager: str, headers: CallHeaders) -> None:
        """Tells the scheduler that nobody waits any more; a model call would go on using the engine."""
        if manager != "llm" or not nc.is_connected:
            return
        cancel = replace(headers, id=new_syscall_id(), deadline_ms=None, reply="")
        await nc.publish(
            subjects.kernel("syscall", "cancel"), orjson.dumps({"id": headers.id}), headers=cancel.to_wire()
        )

    async def _on_answer(self, message: Msg) -> None:
        answer = self._open.get(message.subject[len(self._inbox) :])
        if answer is None or answer.done():
            return
        if message.headers is not None and message.headers.get("Status") == _NO_RESPONDERS:
            answer.set_exception(ManagerUnavailable("nobody serves this operation now"))
        elif _is_last(message.data):
            answer.set_result(message.data)


def _is_last(frame: bytes) -> bool:
    return frame.startswith((b'{"type":"done"', b'{"type":"error"'))


def _result(name: str, frame: bytes, model: type[R]) -> R:
    try:
        parsed = orjson.loads(frame)
        if parsed["type"] == "done":
            return model.model_validate(parsed["result"])
        body = ErrorBody.model_validate(parsed["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise InternalError(f"the answer to {name} could not be read") from error
    raise AiosError.from_body(body)

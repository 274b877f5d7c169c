"""Calls that wait for a quota, on the bus: the replicas tell each other of them, list them, and cancel them."""

import time
from collections.abc import Callable

from nats.aio.msg import Msg
from pydantic import ValidationError

from aios_access.charges import Charge
from aios_access.core import Admitted, revoked
from aios_access.presence import PresenceTable
from aios_access.waits import News, Waiting, Waits, cancelled
from aios_kit import replies
from aios_kit.service import Call, Service
from aios_proto import subjects
from aios_proto.errors import (
    BusUnavailable,
    DeadlineExceeded,
    ManagerUnavailable,
    ResourceConflict,
    SyscallCancelled,
    SyscallUnknown,
)
from aios_proto.headers import CallHeaders
from aios_proto.messages.syscall import CancelCallRequest, CancelResult, ListRequest, ListResult, SyscallInfo
from aios_proto.subjects import waiting_calls

_ANSWER_S = 5.0
_ON_ITS_WAY_S = 0.2
_STOPPING_RETRY_S = 0.1


class WaitingCalls:
    """Carries out what `aios_access.waits` decides.

    Args:
        service: the chassis.
        presence: which replicas live.
        is_open: whether a call that this replica let pass has not ended, by its key.
    """

    def __init__(self, service: Service, presence: PresenceTable, is_open: Callable[[str], bool]) -> None:
        self._service = service
        self._presence = presence
        self._is_open = is_open
        self._me = service.settings.instance
        self._waits = Waits(self._me)
        service.serve("syscall", "cancel", self._cancel_here, subject=waiting_calls(self._me, "cancel"))
        service.serve("syscall", "list", self._list_here, subject=waiting_calls(self._me, "list"))

    async def open(self) -> None:
        """Begins to listen to the other replicas, and asks what waits there."""
        await self._service.lane.subscribe(subjects.WAITING_CALLS, self._on_news)
        await self._say(News(kind="tell", by=self._me))

    async def restart(self) -> None:
        """Asks anew, as after a lost connection, and tells the others what waits here."""
        self._waits.forget()
        await self._say(News(kind="tell", by=self._me))
        for waiting in self._waits.all_here():
            await self.tell(waiting)

    async def stop(self) -> None:
        """Ends all waits: nobody could reach them here any more. Their callers send them again, to another replica."""
        for waiting in self._waits.all_here():
            stopping = BusUnavailable(
                "this replica of access stops; send the call again", retry_after_s=_STOPPING_RETRY_S
            )
            self._waits.give_up(waiting, stopping)

    def revoke(self, agent_key: str) -> None:
        """An agent is no more: its calls that wait here end."""
        for waiting in self._of_agent(agent_key):
            self._waits.give_up(waiting, revoked())

    # What becomes of a call

    @property
    def has_any(self) -> bool:
        """Whether a call that arrives now could be waiting already, or have been cancelled while it did."""
        return self._waits.has_any

    async def joined(self, admitted: Admitted) -> bool:
        """Whether a call that arrives joins one that waits: it is the same, sent again.

        Raises:
            SyscallCancelled: it was cancelled a moment ago.
            ResourceConflict: it is another call of the same id.
        """
        headers, now_s = admitted.headers, time.time()
        if (waiting := self._waits.here(headers.key)) is not None:
            waiting.join(admitted.name, headers.reply)
            return True
        found = self._waits.elsewhere(headers.key, int(now_s * 1000))
        if found is not None and self._is_alive(found.by):
            await self._say_again(headers.key, admitted.name, headers.reply, found.by)
            return True
        if (error := self._waits.was_cancelled(headers.key, now_s)) is not None:
            raise error
        return False

    def begin(self, admitted: Admitted, charge: Charge, now_us: int) -> Waiting:
        """A call waits here from now on."""
        return self._waits.begin(admitted, charge, now_us)

    async def tell(self, waiting: Waiting) -> None:
        """Tells the other replicas of a call that waits here."""
        waiting.told = True
        await self._say(waiting.news(self._me))

    def end(self, waiting: Waiting) -> None:
        """A call passes, or its quota refuses it: from here on it cannot be cancelled here."""
        self._waits.end(waiting)

    async def tell_over(self, waiting: Waiting, *, passed: bool) -> None:
        """Tells the other replicas that a call does not wait here any more; `passed`: it goes on from here."""
        key, now_ms = waiting.key, int(time.time() * 1000)
        if passed and (found := self._waits.elsewhere(key, now_ms)) is not None:
            await self._say(News(kind="passed", by=self._me, to=found.by, key=key))
        if waiting.outcome == "joined" and (found := self._waits.elsewhere(key, now_ms)) is not None:
            for reply in (waiting.admitted.headers.reply, *waiting.inboxes):
                await self._say_again(key, waiting.admitted.name, reply, found.by)
        was_cancelled = isinstance(waiting.outcome, SyscallCancelled)
        if waiting.told or was_cancelled:
            await self._say(News(kind="over", by=self._me, key=key, cancelled=was_cancelled))

    # What its agent does

    def listen(self, key: str, reply: str) -> bool:
        """Sends the frames of a call that waits here to one more inbox; False where it does not wait here.

        Raises:
            InvalidRequest: such a call is answered at one inbox only.
        """
        waiting = self._waits.here(key)
        if waiting is None:
            return False
        waiting.attach(reply)
        return True

    def replica_of(self, key: str) -> str | None:
        """The other replica where a call waits, as far as is known."""
        found = self._waits.elsewhere(key, int(time.time() * 1000))
        return found.by if found is not None and self._is_alive(found.by) else None

    async def cancel(self, headers: CallHeaders, body: CancelCallRequest) -> CancelResult | None:
        """Ends a call of the same agent that waits, wherever it does; None where none is known to.

        Raises:
            ManagerUnavailable: the replica where it waits does not answer.
        """
        key = f"{headers.tenant}.{headers.agent}.{body.id}"
        if (result := self._cancel_own(key, body.id)) is not None:
            return result
        found = self._waits.elsewhere(key, int(time.time() * 1000))
        if found is None:
            return None
        try:
            return await self._service.kernel_calls.call(
                "syscall",
                "cancel",
                body,
                CancelResult,
                on_behalf=headers,
                deadline_s=_ANSWER_S,
                subject=waiting_calls(found.by, "cancel"),
            )
        except SyscallUnknown:
            return None  # it has just gone on from there
        except (ManagerUnavailable, DeadlineExceeded) as error:
            if not self._is_alive(found.by):
                return None  # it died, and what waited there with it
            raise ManagerUnavailable(
                "the replica of access where the call waits does not answer", retry_after_s=_ON_ITS_WAY_S
            ) from error

    async def open_calls(self, headers: CallHeaders, body: ListRequest) -> list[SyscallInfo]:
        """The calls of one agent that wait for a quota, on all replicas.

        Raises:
            AiosError: a replica where some wait does not answer.
        """
        agent_key = f"{headers.tenant}.{headers.agent}"
        found = self._own_calls(agent_key)
        for owner in self._waits.owners(agent_key, int(time.time() * 1000)):
            if not self._is_alive(owner):
                continue
            try:
                listed = await self._service.kernel_calls.call(
                    "syscall",
                    "list",
                    body,
                    ListResult,
                    on_behalf=headers,
                    deadline_s=_ANSWER_S,
                    subject=waiting_calls(owner, "list"),
                )
            except ManagerUnavailable:
                continue  # it stops, and ends what waits there
            found += listed.calls
        return found

    # What other replicas ask

    async def _cancel_here(self, call: Call[CancelCallRequest]) -> CancelResult:
        headers = call.headers
        result = self._cancel_own(f"{headers.tenant}.{headers.agent}.{call.body.id}", call.body.id)
        if result is None:
            raise SyscallUnknown("no call of this id waits here", field="id")
        return result

    async def _list_here(self, call: Call[ListRequest]) -> ListResult:
        calls = self._own_calls(f"{call.headers.tenant}.{call.headers.agent}")
        return ListResult(calls=calls[: call.body.limit])

    def _cancel_own(self, key: str, call_id: str) -> CancelResult | None:
        waiting = self._waits.here(key)
        if waiting is None:
            return None
        self._waits.give_up(waiting, cancelled())
        self._waits.cancelled(key, time.time())
        return CancelResult(id=call_id, state="queued")

    def _own_calls(self, agent_key: str) -> list[SyscallInfo]:
        now_s = time.time()
        return [waiting.info(now_s) for waiting in self._of_agent(agent_key)]

    def _of_agent(self, agent_key: str) -> list[Waiting]:
        prefix = f"{agent_key}."
        return [waiting for waiting in self._waits.all_here() if waiting.key.startswith(prefix)]

    # What replicas tell each other

    async def _on_news(self, message: Msg) -> None:
        try:
            news = News.model_validate_json(message.data)
        except ValidationError as error:
            self._service.log.warning("another replica's news could not be read", error=str(error))
            return
        if news.by == self._me or news.to not in ("", self._me):
            return
        match news.kind:
            case "tell":
                self._waits.forget(news.by)
                for waiting in self._waits.all_here():
                    if waiting.told:
                        await self.tell(waiting)
            case "again":
                await self._sent_again(news)
            case "passed":
                if (own := self._waits.here(news.key)) is not None:
                    self._waits.give_up(own, "passed")
            case _:
                await self._begun_or_over(news)

    async def _begun_or_over(self, news: News) -> None:
        if news.kind == "begun" and self._is_open(news.key):
            await self._say(News(kind="passed", by=self._me, to=news.by, key=news.key))
            return
        joins = self._waits.heard(news, time.time())
        if joins is not None:
            self._waits.give_up(joins, "joined")
        elif news.kind == "begun" and (own := self._waits.here(news.key)) is not None:
            await self.tell(own)  # which then ends the other

    async def _sent_again(self, news: News) -> None:
        waiting = self._waits.here(news.key)
        if waiting is None:
            await self._say(News(kind="over", by=self._me, to=news.by, key=news.key))
            return
        try:
            waiting.join(news.operation, news.reply)
        except ResourceConflict as error:
            await self._service.lane.reply(news.reply, replies.failed(waiting.admitted.headers.id, error))

    async def _say_again(self, key: str, operation: str, reply: str, to: str) -> None:
        await self._say(News(kind="again", by=self._me, to=to, key=key, operation=operation, reply=reply))

    async def _say(self, news: News) -> None:
        await self._service.lane.reply(subjects.WAITING_CALLS, news.model_dump_json(exclude_defaults=True).encode())

    def _is_alive(self, instance: str) -> bool:
        return self._presence.is_alive("access", instance, time.monotonic())

"""Which live connections belong to which agent, as the servers of the bus themselves know it, and cutting them.

Nothing is remembered here, so nothing is forgotten at a restart: every server is asked for the connections of a user,
and is told to cut them. One that comes back passes the auth callout again, which refuses it then.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, suppress

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aios_kit.logs import Log
from aios_proto import subjects
from aios_proto.names import is_name

# A connection the callout let in just before appears when the server has read the answer; it waits three seconds.
_LOOK_AGAIN_AFTER_S = (0.0, 1.0, 3.0)
_QUIET_S = 1.0
_PAGE = 1024


class BusConnections:
    """Cuts agents' connections.

    Args:
        nc: gives the connection to the bus.
        is_known: whether there is an agent of that key.
        log: gets what could not be cut.
        timeout_s: longest wait for one server's answer.
    """

    def __init__(self, nc: Callable[[], Client], is_known: Callable[[str], bool], log: Log, timeout_s: float) -> None:
        self._nc = nc
        self._is_known = is_known
        self._log = log
        self._timeout_s = timeout_s
        self._cutting: set[asyncio.Task[None]] = set()

    def cut(self, agent: str) -> None:
        """Begins to cut all connections of an agent (`<tenant>.<agent>`), on every server."""
        self._start(self._cut(agent), f"cut {agent}")

    def cut_strangers(self) -> None:
        """Begins to cut the connections of agents that are not known: they were revoked while no access was there."""
        self._start(self._cut_strangers(), "cut strangers")

    async def close(self) -> None:
        """Cuts nothing more."""
        for task in self._cutting:
            task.cancel()
        if self._cutting:
            await asyncio.wait(self._cutting)

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._cutting.add(task)
        task.add_done_callback(self._cutting.discard)

    async def _cut(self, agent: str) -> None:
        waited = 0.0
        for after_s in _LOOK_AGAIN_AFTER_S:
            await asyncio.sleep(after_s - waited)
            waited = after_s
            if after_s and self._is_known(agent):
                return  # a new agent of that name
            await self._cut_where({"user": agent}, lambda user: user == agent)

    async def _cut_strangers(self) -> None:
        await self._cut_where({}, lambda user: _is_agent(user) and not self._is_known(user))

    async def _cut_where(self, asked: dict[str, str], wanted: Callable[[str], bool]) -> None:
        try:
            async with aclosing(self._connections(asked)) as found:
                async for server, user, number in found:
                    if wanted(user):
                        await self._kick(server, number)
        except (NatsError, TimeoutError) as error:
            self._log.warning("the bus could not be asked for connections", error=str(error))

    async def _connections(self, asked: dict[str, str]) -> AsyncGenerator[tuple[str, str, int], None]:
        """Server, user and number of the connections of all servers; ends when no server has spoken for a while."""
        nc = self._nc()
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = nc.new_inbox()

        async def take(message: Msg) -> None:
            answers.put_nowait(message)

        subscription = await nc.subscribe(inbox, cb=take)
        try:
            await self._ask(inbox, asked, 0)
            while True:
                try:
                    message = await asyncio.wait_for(answers.get(), _QUIET_S)
                except TimeoutError:
                    return
                server, page, listed, total = _read(message.data)
                for user, number in listed:
                    yield server, user, number
                if page + _PAGE < total and page == 0:
                    for offset in range(_PAGE, total, _PAGE):
                        await self._ask(inbox, asked, offset)
        finally:
            with suppress(NatsError):
                await subscription.unsubscribe()

    async def _ask(self, inbox: str, asked: dict[str, str], offset: int) -> None:
        question = {"auth": True, "limit": _PAGE, "offset": offset, **asked}
        await self._nc().publish(subjects.LIST_CONNECTIONS, orjson.dumps(question), reply=inbox)

    async def _kick(self, server: str, number: int) -> None:
        command = orjson.dumps({"cid": number})
        try:
            # The server obeys requests only. Its answer is an error where the client has left by itself.
            await self._nc().request(subjects.cut_connection(server), command, timeout=self._timeout_s)
        except (NatsError, TimeoutError) as error:
            self._log.warning("a connection could not be cut", error=str(error))


def _read(answer: bytes) -> tuple[str, int, Iterator[tuple[str, int]], int]:
    """Server, offset, connections (user and number) and their total, of one server's answer."""
    parsed = orjson.loads(answer)
    server = str(parsed.get("server", {}).get("id", ""))
    data = parsed.get("data") or {}
    listed = ((str(each.get("authorized_user", "")), int(each["cid"])) for each in data.get("connections") or [])
    return server, int(data.get("offset", 0)), listed, int(data.get("total", 0))


def _is_agent(user: str) -> bool:
    tenant, separator, agent = user.partition(".")
    return bool(separator) and is_name(tenant) and is_name(agent)

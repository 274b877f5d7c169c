"""How the KV of running calls gets out of their engine while it lives, so that another one need not compute it again.

KV is state of the process that has it, and a checkpoint's token ids alone mean computing all of it anew: on our CPU
engine 5 ms a token, where loading it takes hundredths of that. So what is new of a call's KV is stored each time its
checkpoint is, as DejaVu does between machines (Strati et al., arXiv 2403.01876). How much goes out in a second is
bounded: KV that was not computed for this call but shared with others could come to any amount.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from aios_kit.logs import Log
from aios_kit.tasks import end
from aios_llm.ports import Engine, KvMark, KvPiece, KvStore, KvWanted

_PIECE_BYTES = 4 << 20
_CALL_BYTES = 64 << 20
_GROWTH = 64
"""A call's KV is read again once it has grown by this part: the engine reads all of it for any piece of it."""
_BATCH_BYTES = 16 << 20
_BRINGS_AT_ONCE = 4
"""Each may have all of a call in memory, and the bus cuts off a client for which too much waits."""
_MOST_AT_ONCE = 128
_REMEMBERED = 1024
_REFUSED_PAUSE_S = 5.0
"""Without it a store that takes nothing would have the same KV read again and again."""
_NEARLY_ALL = 0.9


@dataclass(slots=True, eq=False)
class _Trail:
    """What is stored of one call.

    Attributes:
        end: how far it reaches; None before anything is stored.
        size: bytes.
        made: how many tokens the call had made when it was last due.
        due_s: when that was, by the event loop's clock.
        stored: how many it had made when all of its KV was stored.
        usual: bytes of its last piece; of the first a guess.
        busy: whether it is being extended.
        ended: whether the call has ended meanwhile.
    """

    end: KvMark | None = None
    size: int = 0
    made: int = 0
    due_s: float = float("-inf")
    stored: int = 0
    usual: int = 1 << 20
    busy: bool = False
    ended: bool = False


class Allowance:
    """Bytes that may be used in a second, at most those of one second at a time."""

    def __init__(self, per_second: int, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left = float(per_second)
        self._at = clock()

    @property
    def left(self) -> int:
        """What may be used now."""
        now = self._clock()
        self._left = min(self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        return max(0, int(self._left))

    def use(self, count: int) -> None:
        """Notes what was used."""
        self._left -= count


class KvTrails:
    """Stores the KV of this worker's calls, and brings it to its engine.

    Args:
        engine: of this worker.
        offered: whether it gives KV away in pieces.
        store: where they go; None stores nothing.
        allowance: how much may go there.
        every_s: a call's KV is read no sooner than about so many seconds after the last time.
        log: where a failure that nobody expected is told.
    """

    def __init__(
        self,
        engine: Engine,
        offered: Callable[[], bool],
        store: KvStore | None,
        allowance: Allowance,
        every_s: float,
        log: Log,
    ) -> None:
        self._engine = engine
        self._offered = offered
        self._store = store
        self._allowance = allowance
        self._every_s = every_s
        self._log = log
        self._trails: OrderedDict[str, _Trail] = OrderedDict()
        self._due: dict[str, _Trail] = {}
        self._extending: asyncio.Task[None] | None = None
        self._refused_until_s = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self._brings = asyncio.Semaphore(_BRINGS_AT_ONCE)

    def extend(self, key: str, made: int) -> None:
        """Stores what is new of a call's KV, in the background, if that is worth its price and there is room.

        Args:
            key: of the call.
            made: tokens it has made.
        """
        now_s = asyncio.get_running_loop().time()
        if self._store is None or not self._offered() or now_s < self._refused_until_s:
            return
        trail = self._trails.setdefault(key, _Trail())
        self._trails.move_to_end(key)
        while len(self._trails) > _REMEMBERED:
            self._trails.popitem(last=False)
        if trail.busy or trail.size >= _CALL_BYTES or now_s - trail.due_s < self._every_s:
            return
        if trail.end is not None and made - trail.stored < max(1, trail.end.tokens // _GROWTH):
            return
        trail.made, trail.due_s = made, now_s
        self._due[key] = trail
        if self._extending is None:
            self._extending = self._start(self._extend_due(self._store), "store kv")

    def complete(self, key: str, made: int) -> None:
        """Stores the rest of a call that is paused, if a part is stored: one that ran so shortly is cheaply made."""
        trail = self._trails.get(key)
        if trail is not None and trail.end is not None:
            trail.due_s = float("-inf")
            self.extend(key, made)

    async def bring(self, key: str, *, own: bool) -> bool:
        """Has the engine hold what is stored of a call; whether it does.

        Args:
            key: of the call.
            own: whether what is made from there on belongs to the same call.
        """
        if self._store is None:
            return False
        async with self._brings:
            pieces = await self._store.read(key)
            if not pieces or not await self._engine.give_kv(key, pieces):
                return False
            if own:
                self._trails[key] = _Trail(pieces[-1].end, sum(len(piece.data) for piece in pieces))
            return True

    def forget(self, key: str, *, of_another: bool) -> None:
        """The call has ended: what is stored of it is removed, in the background.

        Args:
            key: of the call.
            of_another: whether another worker may have stored some.
        """
        self._due.pop(key, None)
        trail = self._trails.pop(key, None)
        if trail is not None:
            trail.ended = True
        if self._store is not None and (of_another or trail is not None) and (trail is None or not trail.busy):
            self._start(self._store.remove(key), "remove kv")

    async def stop(self, timeout_s: float) -> None:
        """Ends what is being done, after at most that many seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            await end(*self._tasks)

    async def _extend_due(self, store: KvStore) -> None:
        """All that is due is read at once: the engine stops for it only once, and one request asks for all."""
        try:
            while wanted := self._wanted():
                trails = {key: self._due.pop(key) for key in wanted}
                for trail in trails.values():
                    trail.busy = True
                pieces = await self._engine.take_kv(wanted)
                for key, trail in trails.items():  # one after the other: callers' tokens take the same road
                    await self._keep(key, trail, pieces.get(key), wanted[key], store)
        finally:
            self._due.clear()  # what the allowance does not reach has its turn at its next checkpoint
            self._extending = None

    def _wanted(self) -> dict[str, KvWanted]:
        """What is asked for next, as far as the allowance goes."""
        left = min(_BATCH_BYTES, self._allowance.left)
        wanted: dict[str, KvWanted] = {}
        for key, trail in itertools.islice(self._due.items(), _MOST_AT_ONCE):
            room = min(_PIECE_BYTES, left, _CALL_BYTES - trail.size)
            if room <= 0:
                break
            wanted[key] = KvWanted(trail.end, room)
            left -= min(room, trail.usual)
        return wanted

    async def _keep(self, key: str, trail: _Trail, piece: KvPiece | None, wanted: KvWanted, store: KvStore) -> None:
        try:
            if piece is None:
                return
            size = len(piece.data)
            self._allowance.use(size)
            trail.usual = size
            if await store.append(key, piece):
                if size < _NEARLY_ALL * wanted.max_bytes:  # else there may be more, for the next time
                    trail.stored = trail.made
                trail.end = piece.end
                trail.size += size
            else:
                self._refused_until_s = asyncio.get_running_loop().time() + _REFUSED_PAUSE_S
        finally:
            trail.busy = False
            if trail.ended:
                await store.remove(key)

    def _start(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("KV could not be stored", task=task.get_name(), exc_info=error)

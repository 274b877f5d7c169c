"""When the model works on agentic notes: after the call that made them was answered, and again after a restart.

A note that waits for the model says so in its record, so nothing is lost with a process. After three failures it waits
until its owner's notes are loaded the next time.
"""

import asyncio
from collections import Counter, OrderedDict
from contextlib import suppress
from dataclasses import replace
from typing import Final

from aios_kit.kernel_calls import KernelCalls
from aios_kit.logs import Log
from aios_memory.core.agentic import (
    MAX_ANSWER_TOKENS,
    Question,
    ask_description,
    ask_evolution,
    described,
    evolved,
)
from aios_memory.core.note import Note, Owner
from aios_memory.core.space import Filter, Space
from aios_memory.library import Library
from aios_proto.errors import AiosError, EngineFailed, ResourceNotFound
from aios_proto.headers import CallHeaders
from aios_proto.ids import new_syscall_id
from aios_proto.messages.llm import ChatRequest, ChatResult, JsonSchemaFormat

_ATTEMPTS: Final = 3
_PRIORITY: Final = 2
_PROGRAM: Final = "memory-agentic"
_GROUP: Final = "agent"


class AgenticNotes:
    """Lets the model describe, link and revise notes.

    Args:
        library: the notes.
        calls: to the model.
        neighbours: how many similar notes the model is shown.
        timeout_s: longest wait for one answer.
        log: told when the model cannot be asked.
    """

    def __init__(self, library: Library, calls: KernelCalls, *, neighbours: int, timeout_s: float, log: Log) -> None:
        self._library = library
        self._calls = calls
        self._neighbours = neighbours
        self._timeout_s = timeout_s
        self._log = log
        self._waiting: OrderedDict[tuple[str, str], Owner] = OrderedDict()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._news = asyncio.Event()

    def add(self, space: Space) -> None:
        """Takes up the notes of a space that wait for the model."""
        for name in space.wanting_model():
            self.add_note(space.owner, name)

    def add_note(self, owner: Owner, name: str) -> None:
        """Takes up one note."""
        self._waiting[owner.key, name] = owner
        self._news.set()

    async def run(self) -> None:
        """Works on notes for ever; cancel it to stop."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                (key, name), owner = self._waiting.popitem(last=False)
                try:
                    await self._work_on(owner, name)
                except ResourceNotFound:
                    continue  # it was removed meanwhile
                except AiosError as error:
                    self._failures[key, name] += 1
                    self._log.warning("the model could not work on a note", error=error.message)
                    if self._failures[key, name] < _ATTEMPTS:
                        self._waiting[key, name] = owner
                        await asyncio.sleep(1.0)
                    continue
                self._failures.pop((key, name), None)

    async def _work_on(self, owner: Owner, name: str) -> None:
        note = await self._library.get(owner, name)
        if not note.wants_model:
            return
        headers = CallHeaders(
            id=new_syscall_id(),
            program=_PROGRAM,
            priority=_PRIORITY,
            tenant=owner.tenant,
            agent=note.author,
            group=_GROUP,
        )
        note = described(note, await self._ask(ask_description(note), headers))
        neighbours = await self._similar(owner, headers, note)
        links: tuple[str, ...] = ()
        if neighbours:
            change = evolved(neighbours, await self._ask(ask_evolution(note, neighbours), headers))
            links = change.links
            for other in dict.fromkeys((*change.links, *change.revisions)):
                context, tags = change.revisions.get(other, (None, None))
                await self._revise(owner, other, headers.id, note.id if other in links else None, context, tags)
        described_note = note

        def finish(current: Note, now_ms: int) -> Note:
            return current.changed(
                headers.id,
                now_ms,
                keywords=described_note.keywords,
                context=described_note.context,
                tags=tuple(dict.fromkeys((*current.tags, *described_note.tags))),
                links=tuple(dict.fromkeys((*current.links, *links))),
                wants_model=False,
            )

        await self._library.change(owner, name, headers.id, finish)

    async def _similar(self, owner: Owner, headers: CallHeaders, note: Note) -> list[Note]:
        if self._neighbours == 0:
            return []
        found = await self._library.search(owner, headers, note.text[:16_000], "hybrid", Filter(), self._neighbours + 1)
        return [other for other, _ in found.notes if other.id != note.id][: self._neighbours]

    async def _revise(
        self,
        owner: Owner,
        name: str,
        call: str,
        link: str | None,
        context: str | None,
        tags: tuple[str, ...] | None,
    ) -> None:
        def revise(current: Note, now_ms: int) -> Note:
            return current.changed(
                call,
                now_ms,
                context=current.context if context is None else context,
                tags=current.tags if tags is None else tuple(dict.fromkeys((*current.tags, *tags))),
                links=current.links if link is None else tuple(dict.fromkeys((*current.links, link))),
            )

        with suppress(ResourceNotFound):  # it was removed meanwhile
            await self._library.change(owner, name, call, revise)

    async def _ask(self, question: Question, headers: CallHeaders) -> str:
        request = ChatRequest(
            messages=question.messages,
            max_tokens=MAX_ANSWER_TOKENS,
            response_format=JsonSchemaFormat(type="json_schema", json_schema=question.json_schema),
            stream=False,
        )
        on_behalf = replace(headers, id=new_syscall_id())
        result = await self._calls.call(
            "llm", "chat", request, ChatResult, on_behalf=on_behalf, deadline_s=self._timeout_s
        )
        if result.finish_reason == "length":
            raise EngineFailed("the model did not come to an end about a note")
        return result.message.content or ""

"""What of an agent's notes is put before a model: the best that fit into a token budget, as one text."""

from collections.abc import Sequence
from typing import Final, Literal

from aios_kit.kernel_calls import KernelCalls
from aios_memory.core.note import Note, Owner
from aios_memory.core.packing import ESTIMATED_BYTES_A_TOKEN, HEADING, line_of, packed
from aios_memory.core.space import Filter
from aios_memory.library import Library
from aios_proto.errors import AiosError
from aios_proto.headers import CallHeaders
from aios_proto.messages.llm import TokenizeRequest, TokenizeResult
from aios_proto.messages.memory import InjectRequest, InjectResult

_COUNT_TIMEOUT_S: Final = 5.0


class Injection:
    """Serves `memory.inject`."""

    def __init__(self, library: Library, calls: KernelCalls) -> None:
        self._library = library
        self._calls = calls

    async def inject(self, owner: Owner, headers: CallHeaders, request: InjectRequest) -> InjectResult:
        """The notes for a text; empty where none is found or none fits.

        Raises:
            AiosError: the search failed.
        """
        wanted = Filter(tuple(request.tags))
        found = await self._library.search(owner, headers, request.query, request.mode, wanted, request.limit)
        notes = [note for note, _ in found.notes]
        counts, counted = await self._count([HEADING, *map(line_of, notes)], headers, request.model)
        chosen, tokens = packed(counts, request.budget_tokens)
        if not chosen:
            return InjectResult(text="", tokens=0, memory_ids=[], counted=counted)
        taken: Sequence[Note] = [notes[place] for place in chosen]
        return InjectResult(
            text="\n".join([HEADING, *map(line_of, taken)]),
            tokens=tokens,
            memory_ids=[note.id for note in taken],
            counted=counted,
        )

    async def _count(
        self, texts: list[str], headers: CallHeaders, model: str | None
    ) -> tuple[list[int], Literal["model", "estimate"]]:
        # Each with its line break: joining texts can only make tokens fewer, up to one at each seam.
        lines = [f"{text}\n" for text in texts]
        try:
            said = await self._calls.call(
                "llm",
                "tokenize",
                TokenizeRequest(texts=lines, model=model),
                TokenizeResult,
                on_behalf=headers,
                deadline_s=_COUNT_TIMEOUT_S,
            )
        except AiosError:
            # No model is there to ask: more tokens are counted than most texts have.
            return [-(-len(line.encode()) // ESTIMATED_BYTES_A_TOKEN) for line in lines], "estimate"
        return [count + 1 for count in said.counts], "model"

"""Vectors from `llm.embed`, with those of texts seen lately kept: by what the text hashes to, and the model."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from aios_kit.kernel_calls import KernelCalls
from aios_memory.core.note import text_hash
from aios_memory.ports import Embedded
from aios_proto.headers import CallHeaders
from aios_proto.messages.llm import EmbedRequest, EmbedResult

_KEPT: Final = 8192


class KernelEmbedding:
    """The `Embedding` port on the embedding workers.

    A model is known by what the last answer said; while all texts of a call are known, nobody is asked, so a changed
    model is noticed at the first new text.
    """

    def __init__(self, calls: KernelCalls) -> None:
        self._calls = calls
        self._kept: OrderedDict[str, Sequence[float]] = OrderedDict()
        self._model = ""
        self._dimensions = 0

    async def embed(self, texts: Sequence[str], on_behalf: CallHeaders, deadline_s: float) -> Embedded:
        """See `Embedding.embed`."""
        hashes = [text_hash(text) for text in texts]
        missing = {name: text for name, text in zip(hashes, texts, strict=True) if name not in self._kept}
        found: dict[str, Sequence[float]] = {}
        if missing:
            answer = await self._ask(list(missing.values()), on_behalf, deadline_s)
            if (answer.model, answer.dimensions) != (self._model, self._dimensions):
                self._kept.clear()
                self._model, self._dimensions = answer.model, answer.dimensions
                if len(missing) < len(set(hashes)):  # some of them came from the old model
                    return await self.embed(texts, on_behalf, deadline_s)
            found = dict(zip(missing, answer.vectors, strict=True))
        vectors = [found[name] if name in found else self._kept[name] for name in hashes]
        for name, vector in zip(hashes, vectors, strict=True):
            self._kept[name] = vector
            self._kept.move_to_end(name)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return Embedded(vectors, self._model, self._dimensions)

    async def _ask(self, texts: list[str], on_behalf: CallHeaders, deadline_s: float) -> EmbedResult:
        return await self._calls.call(
            "llm", "embed", EmbedRequest(texts=texts), EmbedResult, on_behalf=on_behalf, deadline_s=deadline_s
        )

"""Token counts and summaries by the LLM workers, asked over the bus in the name of the context's owner."""

from collections.abc import Sequence

from aios_context.ports import Counts
from aios_kit.kernel_calls import KernelCalls
from aios_proto.headers import CallHeaders
from aios_proto.messages.llm import ChatMessage, ChatRequest, ChatResult, TokenizeRequest, TokenizeResult

_LOWEST_PRIORITY = 0
_MOST_BYTES = 512 * 1024
_MOST_TEXTS = 1024


class LlmTokeniser:
    """The `Tokeniser` port on `llm.tokenize`.

    Args:
        calls: of this service.
        deadline_s: longest wait for one answer.
    """

    def __init__(self, calls: KernelCalls, deadline_s: float) -> None:
        self._calls = calls
        self._deadline_s = deadline_s

    async def count(self, texts: Sequence[str], model: str | None, on_behalf: CallHeaders) -> Counts:
        """See `Tokeniser.count`."""
        tokens: list[int] = []
        batches = _batches(texts) or [[]]
        for batch in batches:
            said = await self._calls.call(
                "llm",
                "tokenize",
                TokenizeRequest(texts=batch, model=model),
                TokenizeResult,
                on_behalf=on_behalf,
                deadline_s=self._deadline_s,
            )
            tokens += said.counts
            model = said.model
        return Counts(
            tokens,
            said.turn_overhead_tokens,
            said.prompt_overhead_tokens,
            said.max_input_tokens,
            said.max_total_tokens,
            said.model,
        )


class LlmSummariser:
    """The `Summariser` port on `llm.chat`.

    Args:
        calls: of this service.
        deadline_s: longest wait for one answer.
    """

    def __init__(self, calls: KernelCalls, deadline_s: float) -> None:
        self._calls = calls
        self._deadline_s = deadline_s

    async def ask(
        self, messages: list[ChatMessage], max_tokens: int, model: str | None, on_behalf: CallHeaders, call_id: str
    ) -> str:
        """See `Summariser.ask`."""
        request = ChatRequest(messages=messages, max_tokens=max_tokens, model=model, stream=False)
        said = await self._calls.call(
            "llm",
            "chat",
            request,
            ChatResult,
            on_behalf=on_behalf,
            deadline_s=self._deadline_s,
            priority=_LOWEST_PRIORITY,
            call_id=call_id,
        )
        return said.message.content or ""


def _batches(texts: Sequence[str]) -> list[list[str]]:
    batches: list[list[str]] = []
    size = 0
    for text in texts:
        size += len(text.encode())
        if not batches or size > _MOST_BYTES or len(batches[-1]) == _MOST_TEXTS:
            batches.append([])
            size = len(text.encode())
        batches[-1].append(text)
    return batches

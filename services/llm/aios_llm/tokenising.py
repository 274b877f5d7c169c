"""How many tokens texts have for this worker's model: answers `llm.tokenize`.

Each model has a queue group of its own on the one subject, so every call reaches one worker of each model, and the
model that is asked for answers; a call that names none takes the first answer.
"""

import hashlib
from contextlib import suppress

import orjson
from nats.aio.msg import Msg

from aios_kit.operation import Answering, Call
from aios_kit.service import Service
from aios_llm.ports import Engine, EngineInfo
from aios_proto import subjects
from aios_proto.errors import AiosError, EngineUnavailable
from aios_proto.messages.llm import ChatMessage, TokenizeRequest, TokenizeResult

_PROBE = "word"


class Tokenising:
    """Counts with an engine's tokeniser.

    Args:
        service: whose bus connection it answers on.
        engine: has the tokeniser.
    """

    def __init__(self, service: Service, engine: Engine) -> None:
        self._service = service
        self._engine = engine
        self._info: EngineInfo | None = None
        self._overheads: tuple[int, int] | None = None
        self._offered: set[str] = set()
        self._answering = Answering(
            service.role,
            "llm.tokenize",
            TokenizeRequest,
            self._count,
            service.tracing,
            service.metrics,
            service.log,
        )

    async def offer(self, info: EngineInfo) -> None:
        """Answers for this model from now on; what the engine served before is no longer answered for."""
        if self._info is None or self._info.model != info.model:
            self._overheads = None
        self._info = info
        if info.model in self._offered:
            return
        self._offered.add(info.model)
        if len(self._offered) == 1:
            self._service.announce("llm", "tokenize")
        group = f"tokenize-{hashlib.sha256(info.model.encode()).hexdigest()[:16]}"

        async def on_call(message: Msg) -> None:
            if self._info is not None and self._info.model == info.model and _asks_for(message.data, info.model):
                await self._service.tasks.start(self._answering.answer(self._service.lane, message), "llm.tokenize")

        await self._service.lane.subscribe(subjects.kernel("llm", "tokenize"), on_call, queue=group)

    async def _count(self, call: Call[TokenizeRequest]) -> TokenizeResult:
        info = self._info
        if info is None:
            raise EngineUnavailable("the engine is not ready", retry_after_s=1)
        if self._overheads is None:
            self._overheads = await self._measure_template()
        turn, prompt = self._overheads
        return TokenizeResult(
            counts=await self._engine.count_tokens(call.body.texts),
            turn_overhead_tokens=turn,
            prompt_overhead_tokens=prompt,
            max_input_tokens=info.max_input_tokens,
            max_total_tokens=info.max_total_tokens,
            model=info.model,
        )

    async def _measure_template(self) -> tuple[int, int]:
        """What the chat template adds to each turn, and once to a prompt, in tokens.

        Templates differ in what they add to a conversation without a system turn; the larger figure is taken.
        """
        user = ChatMessage(role="user", content=_PROBE)
        assistant = ChatMessage(role="assistant", content=_PROBE)
        conversations = [[user], [user, assistant, user]]
        prompts = [await self._engine.render(turns) for turns in conversations]
        with suppress(AiosError):  # a template without system turns
            prompts.append(await self._engine.render([ChatMessage(role="system", content=_PROBE), user]))
        word, one, three, *with_system = await self._engine.count_tokens([_PROBE, *prompts])
        turn = max(0, -(-(three - one - 2 * word) // 2))
        return turn, max(0, one - word - turn, *(two - 2 * word - 2 * turn for two in with_system))


def _asks_for(body: bytes, model: str) -> bool:
    """Whether this model is asked; a body that cannot be read is answered, with the error that says why."""
    try:
        named = orjson.loads(body or b"{}").get("model")
    except (orjson.JSONDecodeError, AttributeError):
        return True
    return named is None or named == model

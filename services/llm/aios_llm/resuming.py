"""How a call that was begun before goes on: what was made, and how its KV comes back to the engine."""

from dataclasses import dataclass, replace
from typing import Literal

from aios_kit.logs import Log
from aios_llm.checkpoint import Checkpoint, digest
from aios_llm.kv_trails import KvTrails
from aios_llm.ports import Continuation, Engine, EngineInfo, GenerateRequest
from aios_llm.run import Run
from aios_proto.errors import InvalidRequest

Level = Literal["hot", "warm", "cold"]


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a call goes on from.

    Attributes:
        checkpoint: as it was stored.
        begun: the part of it that can be gone on from.
        level: where its KV comes from.
    """

    checkpoint: Checkpoint
    begun: Continuation
    level: Level


class Resumer:
    """Finds what a call goes on from.

    Args:
        engine: that will go on with it.
        trails: bring the KV of calls that another engine has run.
        log: for what callers are not told.
    """

    def __init__(self, engine: Engine, trails: KvTrails, log: Log) -> None:
        self._engine = engine
        self._trails = trails
        self._log = log

    async def resumption(
        self, run: Run, checkpoint: Checkpoint, request: GenerateRequest, info: EngineInfo
    ) -> Resumption | None:
        """How to go on from a checkpoint; None where that cannot be, and the call begins anew.

        Raises:
            EngineUnavailable: the engine cannot be reached.
            EngineFailed: what it says makes no sense.
        """
        if not can_resume(request, info) or checkpoint.made.tokens == 0:
            return None
        if checkpoint.prompt_digest != digest(request.prompt):
            self._log.warning("the prompt is not what it was; the call begins anew", syscall_id=run.headers.id)
            return None
        if not _is_scored(checkpoint, request):
            return None
        begun = await self._cut(checkpoint, request, info)
        if begun.tokens >= request.max_new_tokens:
            return None
        return Resumption(checkpoint, begun, await self._bring_kv(run.key, checkpoint, info, own=True))

    async def continuation(
        self, key: str, checkpoint: Checkpoint, request: GenerateRequest, info: EngineInfo
    ) -> Resumption:
        """How a call goes on from what another call has made, of which this is what is kept.

        Args:
            key: of the other call.

        Raises:
            InvalidRequest: it cannot go on from there; the field says why.
            EngineUnavailable: the engine cannot be reached.
            EngineFailed: what it says makes no sense.
        """
        if not can_resume(request, info):
            grammar = info.resumes == "text" and request.grammar is not None
            raise InvalidRequest(
                f"the engine of {info.model} cannot go on with an answer" + (" that has a format" if grammar else ""),
                field="response_format" if grammar else "continue_from",
            )
        if checkpoint.model == info.model and checkpoint.prompt_digest != digest(request.prompt):
            raise InvalidRequest("that call answered other messages, or another prompt", field="continue_from")
        if not _is_scored(checkpoint, request):
            raise InvalidRequest("that call was not asked for log probabilities", field="logprobs")
        begun = await self._cut(checkpoint, request, info)
        if begun.tokens >= request.max_new_tokens:
            raise InvalidRequest(f"the answer has {begun.tokens} tokens already", field="max_tokens")
        if any(stop in begun.text for stop in request.stop):
            raise InvalidRequest("the answer has a stop sequence already", field="stop")
        kept = replace(
            checkpoint,
            sent_text=0,
            sent_tokens=0,
            sent_scores=0,
            first_token_us=None,
            prompt=None,
            inherited=begun.tokens,
        )
        return Resumption(kept, begun, await self._bring_kv(key, checkpoint, info, own=False))

    async def _cut(self, checkpoint: Checkpoint, request: GenerateRequest, info: EngineInfo) -> Continuation:
        """As much of what was made as this engine can go on from."""
        made = checkpoint.made
        if checkpoint.fingerprint != info.fingerprint or checkpoint.model != info.model:
            made = replace(made, ids=(), ends=())  # the ids of another model mean something else
        return await self._engine.resume_point(request.prompt, made)

    async def _bring_kv(self, key: str, checkpoint: Checkpoint, info: EngineInfo, *, own: bool) -> Level:
        if not info.holds_kv or checkpoint.fingerprint != info.fingerprint:
            return "cold"
        elsewhere = checkpoint.engine and info.id and checkpoint.engine != info.id
        if not elsewhere and await self._engine.holds(key):  # an engine at work takes a step's time to say no
            return "hot"
        return "warm" if await self._trails.bring(key, own=own) else "cold"


def _is_scored(checkpoint: Checkpoint, request: GenerateRequest) -> bool:
    """Whether the log probabilities of what was made are known, if they are asked for."""
    return request.top_logprobs is None or len(checkpoint.made.scored) == checkpoint.made.tokens


def can_resume(request: GenerateRequest, info: EngineInfo) -> bool:
    """Whether this engine could go on with this generation as if it had not stopped.

    Where only text goes over, what a grammar has seen does not.
    """
    match info.resumes:
        case "ids":
            return True
        case "text":
            return request.grammar is None and bool(request.prompt)
        case "no":
            return False

"""Is a generation that was stopped and resumed the same as one that was not, and what does going on cost?

    make bench-resume            # table and results/resume.json
    make bench-resume CHECK=1    # exit status 1 if a bar is missed

Each prompt is answered once without a stop, greedily and once more with seeded sampling. Then it is stopped at random
tokens and resumed in every way there is:

- hot: the engine has kept the KV under the call's key;
- warm: the KV was read from the engine in pieces, the first while the answer was made, as a worker does beside its
  checkpoints; another engine process, of another size, gets all of them;
- cold: another engine gets the prompt and the ids made so far, and computes everything again;
- text: the same with text instead of ids, cut where `/tokenize` reads the same tokens, as with an engine that is
  TGI and no more.

Ids and texts must be identical. Time is measured one call at a time on contexts of some hundred tokens: how much later
than in a run that was not stopped the next token comes.
"""

import argparse
import asyncio
import io
import math
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from report import Bar, Report, read_options
from running_engine import running_engine

from aios_llm.adapters.sse import EventSplitter
from aios_llm.adapters.tgi import TgiEngine
from aios_llm.generated import Generated, Snapshot
from aios_llm.ports import Continuation, Piece

LEVELS = ("hot", "warm", "cold", "text")
EXACT = ("hot", "warm", "cold")
CONCURRENCY = 4
SUBJECTS = (
    "the sea", "a small robot", "rain in the city", "小猫", "bread", "the number seven", "🚲 bicycles", "an old clock",
    "mountains", "die Küche", "prime numbers", "a lost key", "coffee ☕", "railways", "the moon", "Größe und Maß",
    "a red balloon", "honey bees", "東京", "maps",
)  # fmt: skip
FORMS = (
    "Write one sentence about {}.",
    "def describe():\n    # about {}\n",
    '{{"subject": "{}", "facts": ["',
    "List five words about {}:\n1.",
    "Q: What is special about {}?\nA:",
    "Once upon a time, {} was",
    "| item | {} |\n|---|---|\n|",
    "Translate to French: I like {}.\n",
    "A poem about {} 🎵\n\n",
    "Dear editor, {} should",
)
PASSAGE = "The caravan crossed the plain at dawn, and nobody spoke of the river that was not there the day before. "
Json = dict[str, Any]


@dataclass(frozen=True)
class Token:
    id: int
    text: str
    at: float


@dataclass
class Run:
    """What one request gave."""

    tokens: list[Token] = field(default_factory=list)
    begun: float = 0.0
    last: Json | None = None

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def first_ms(self) -> float:
        return (self.tokens[0].at - self.begun) * 1000


@dataclass
class Score:
    """How one level did."""

    cuts: int = 0
    same: int = 0
    lost_or_repeated: int = 0
    bleu: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Engine:
    """One engine over HTTP."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url
        self.reader = TgiEngine(url, None, 5.0, 60.0, extensions=False)

    async def stream(self, body: Json) -> AsyncGenerator[tuple[Token, Json | None], None]:
        """Tokens, the last with the event that ends the stream."""
        headers = {"Content-Type": "application/json"}
        response = await self.http.post(f"{self.url}/generate_stream", data=orjson.dumps(body), headers=headers)
        splitter = EventSplitter()
        try:
            async for chunk in response.content.iter_any():
                for data in splitter.feed(chunk):
                    event = orjson.loads(data)
                    if "error" in event:
                        raise RuntimeError(event["error"])
                    said = event["token"]
                    text = "" if said["special"] else said["text"]
                    yield Token(said["id"], text, time.perf_counter()), event if event["details"] else None
        finally:
            response.close()

    async def run(self, body: Json, stop_at: int | None = None, pieces: "Pieces | None" = None) -> Run:
        """One request, to its end or up to a token; its KV is read at a third and two thirds of the way there."""
        run = Run(begun=time.perf_counter())
        reads = () if stop_at is None else (stop_at // 3, 2 * stop_at // 3)
        async with aclosing(self.stream(body)) as stream:
            async for token, run.last in stream:
                run.tokens.append(token)
                if len(run.tokens) == stop_at:
                    break
                if pieces is not None and len(run.tokens) in reads:
                    await pieces.read()
        return run

    async def is_holding(self, key: str) -> bool:
        """Whether the engine comes to hold a key: it notices a closed connection a moment later."""
        for _ in range(500):
            async with self.http.head(f"{self.url}/aios/kv/{key}") as response:
                if response.status == 200:
                    return True
            await asyncio.sleep(0.002)
        return False

    async def give(self, key: str, pieces: Sequence[bytes]) -> None:
        async with self.http.put(f"{self.url}/aios/kv/{key}", data=io.BytesIO(b"".join(pieces))) as response:
            response.raise_for_status()

    async def release(self, key: str) -> None:
        async with self.http.delete(f"{self.url}/aios/kv/{key}"):
            pass


@dataclass
class Pieces:
    """The KV of one generation, as it was read."""

    engine: Engine
    key: str
    data: list[bytes] = field(default_factory=list)
    mark: dict[str, str] = field(default_factory=dict)

    async def read(self) -> None:
        """Reads what is new."""
        url = f"{self.engine.url}/aios/kv/{self.key}"
        async with self.engine.http.get(url, params=self.mark) as response:
            response.raise_for_status()
            if response.status == 200:
                self.data.append(await response.read())
                self.mark = {"after": response.headers["Aios-Kv-End"], "digest": response.headers["Aios-Kv-Digest"]}

    @property
    def kilobytes(self) -> int:
        return sum(map(len, self.data)) // 1024


def parameters(tokens: int, seed: int | None) -> Json:
    sampled: Json = {} if seed is None else {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "seed": seed}
    return {"max_new_tokens": tokens, "details": True, **sampled}


def made(tokens: Sequence[Token]) -> Snapshot:
    """What the worker would know at a cut."""
    generated = Generated()
    for token in tokens:
        generated.add(Piece(token.text, 1, (token.id,)))
    return generated.snapshot()


async def stop(engine: Engine, body: Json, cut: int, key: str) -> Pieces | None:
    """Runs a generation up to the cut, and leaves its KV in the engine; None if it ended before it could be stopped.

    It may make more tokens than the one it is compared with, so that its length does not end it meanwhile.
    """
    pieces = Pieces(engine, key)
    longer = {**body["parameters"], "max_new_tokens": body["parameters"]["max_new_tokens"] + 64}
    await engine.run({**body, "parameters": longer, "kv_key": key}, cut, pieces)
    if not await engine.is_holding(key):
        return None
    await pieces.read()
    return pieces


async def resume(level: str, second: Engine, body: Json, whole: Run, cut: int, pieces: Pieces) -> Run:
    """The rest of an answer, by one level. Its KV is held by the engine that it was read from."""
    first, key = pieces.engine, pieces.key
    ids = whole.ids[:cut]
    match level:
        case "hot":
            return await first.run({**body, "generated_ids": ids, "kv_from": key})
        case "warm":
            begun = time.perf_counter()
            await second.give(key, pieces.data)
            run = await second.run({**body, "generated_ids": ids, "kv_from": key})
            run.begun = begun
            await second.release(key)
            return run
        case "cold":
            return await second.run({**body, "generated_ids": ids, "cache_prompt": False})
        case _:
            begun = time.perf_counter()
            point = await second.reader.resume_point(body["inputs"], made(whole.tokens[:cut]))
            run = await second.run(_as_text(body, point))
            run.begun = begun
            run.tokens = [*whole.tokens[: point.tokens], *run.tokens][cut:]
            return run


def _as_text(body: Json, point: Continuation) -> Json:
    left = body["parameters"]["max_new_tokens"] - point.tokens
    return {
        "inputs": body["inputs"] + point.text,
        "parameters": {**body["parameters"], "max_new_tokens": left},
        "cache_prompt": False,
    }


def bleu(said: str, wanted: str) -> float:
    """BLEU-4 of one text with uniform weights and a brevity penalty (Papineni et al., ACL 2002), on words."""
    candidate, reference = said.split(), wanted.split()
    if not candidate or not reference:
        return float(candidate == reference)
    logs = []
    for n in range(1, min(4, len(candidate), len(reference)) + 1):
        ours = Counter(zip(*(candidate[i:] for i in range(n)), strict=False))
        theirs = Counter(zip(*(reference[i:] for i in range(n)), strict=False))
        matched = sum((ours & theirs).values())
        if matched == 0:
            return 0.0
        logs.append(math.log(matched / sum(ours.values())))
    brevity = min(0.0, 1 - len(reference) / len(candidate))
    return math.exp(brevity + sum(logs) / len(logs))


def judge(score: Score, whole: Run, rest: Run, cut: int, what: str) -> None:
    """Compares a resumed answer with the one that was not stopped."""
    score.cuts += 1
    ids = whole.ids[:cut] + rest.ids
    text, wanted = "".join(t.text for t in whole.tokens[:cut] + rest.tokens), "".join(t.text for t in whole.tokens)
    score.bleu.append(bleu(text, wanted))
    if ids == whole.ids and text == wanted:
        score.same += 1
        return
    both = min(len(ids), len(whole.ids))
    at = next((i for i in range(both) if ids[i] != whole.ids[i]), both)
    if at < cut:
        score.lost_or_repeated += 1
    score.wrong.append(f"{what}, cut at {cut}: differs from token {at} on")


async def compare(first: Engine, second: Engine, args: argparse.Namespace) -> dict[str, dict[str, Score]]:
    """Scores by kind of sampling and level."""
    prompts = [form.format(subject) for subject in SUBJECTS for form in FORMS]
    random.Random(5).shuffle(prompts)
    prompts = [prompts[i % len(prompts)] for i in range(args.prompts)]
    scores = {kind: {level: Score() for level in LEVELS} for kind in ("greedy", "seeded")}
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(number: int, prompt: str, kind: str) -> None:
        draw = random.Random(number * 2 + (kind == "seeded"))
        body = {"inputs": prompt, "parameters": parameters(args.tokens, number if kind == "seeded" else None)}
        async with slots:
            whole = await first.run(body)
            # An answer that ends by itself is stopped some tokens before, or the stop would come too late.
            by_length = whole.last is not None and whole.last["details"]["finish_reason"] == "length"
            cuts = range(1, len(whole.tokens) - (0 if by_length else 6))
            for cut in draw.sample(cuts, min(args.cuts, len(cuts))):
                key = f"bench.{kind}.{number}.{cut}"
                if (pieces := await stop(first, body, cut, key)) is None:
                    continue
                for level in LEVELS:
                    rest = await resume(level, second, body, whole, cut, pieces)
                    judge(scores[kind][level], whole, rest, cut, f"{kind} {prompt!r}")
                await first.release(key)

    for kind in ("greedy", "seeded"):
        await asyncio.gather(*(one(number, prompt, kind) for number, prompt in enumerate(prompts)))
    return scores


async def measure(first: Engine, second: Engine, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds until the next token by level, one call at a time, and what the cold way pays for the prefill."""
    times: dict[str, list[float]] = {level: [] for level in LEVELS}
    step_ms: list[float] = []
    context = kilobytes = 0
    for number in range(args.timed):
        inputs = f"{number}. " + PASSAGE * args.passages
        body = {"inputs": inputs, "parameters": parameters(24, None)}
        whole = await first.run(body)
        cut = min(12, len(whole.tokens) - 1)
        gaps = [(b.at - a.at) * 1000 for a, b in zip(whole.tokens, whole.tokens[1:], strict=False)]
        step_ms.append(statistics.median(gaps))
        key = f"time.{number}"
        if (pieces := await stop(first, body, cut, key)) is None:
            continue
        kilobytes = pieces.kilobytes
        for level in LEVELS:
            times[level].append((await resume(level, second, body, whole, cut, pieces)).first_ms)
        await first.release(key)
        assert whole.last is not None
        context = whole.last["details"]["input_length"] + cut
    step = statistics.median(step_ms)
    return {
        "context_tokens": context,
        "kv_kilobytes": kilobytes,
        "step_ms": step,
        "next_token_ms": {level: statistics.median(values) for level, values in times.items()},
    }


async def main(args: argparse.Namespace) -> int:
    report = Report(
        "resume",
        "A generation that was stopped and resumed, beside one that was not",
        ("level", "sampling", "cuts", "identical", "lost or repeated", "BLEU", "next token", "added", "prefill saved"),
    )
    with (
        running_engine(n_ctx="1024", max_sequences="6") as one,
        running_engine(n_ctx="1024", max_sequences="5") as two,
    ):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_read=120)) as http:
            first, second = Engine(http, one.url), Engine(http, two.url)
            try:
                figures = await measure(first, second, args)
                scores = await compare(first, second, args)
            finally:
                await first.reader.close()
                await second.reader.close()
    next_ms, step = figures["next_token_ms"], figures["step_ms"]
    for level in LEVELS:
        for kind in ("greedy", "seeded"):
            score = scores[kind][level]
            report.rows.append(
                (
                    level,
                    kind,
                    str(score.cuts),
                    f"{100 * score.same / max(1, score.cuts):.2f} %",
                    str(score.lost_or_repeated),
                    f"{statistics.fmean(score.bleu):.4f}",
                    f"{next_ms[level]:.0f} ms",
                    f"{next_ms[level] - step:.0f} ms",
                    f"{next_ms['cold'] - next_ms[level]:.0f} ms",
                )
            )
        exact = level in EXACT
        cuts = sum(scores[kind][level].cuts for kind in scores)
        same = sum(scores[kind][level].same for kind in scores)
        share = 100 * same / max(1, cuts)
        report.bars.append(Bar(f"{level}: identical", share, 100 if exact else 99.5, "%", at_most=False))
    lost = sum(score.lost_or_repeated for kind in scores.values() for score in kind.values())
    report.bars.append(Bar("tokens lost or repeated", lost, 0, "cuts"))
    compared = sum(levels["hot"].cuts for levels in scores.values())
    report.bars.append(Bar("cuts compared", compared, args.prompts * args.cuts, "cuts", at_most=False))
    report.figures = {
        **figures,
        "prompts": args.prompts,
        "tokens": args.tokens,
        "scores": {
            kind: {
                level: {
                    "cuts": score.cuts,
                    "identical": score.same,
                    "lost_or_repeated": score.lost_or_repeated,
                    "bleu": statistics.fmean(score.bleu),
                    "mismatches": score.wrong,
                }
                for level, score in levels.items()
            }
            for kind, levels in scores.items()
        },
    }
    print(f"time to the next token at {figures['context_tokens']} tokens, {figures['kv_kilobytes']} KB of KV;")
    print(f"a step of a run that is not stopped takes {step:.0f} ms")
    for kind, levels in scores.items():
        for level, score in levels.items():
            for line in score.wrong:
                print(f"{kind} {level}: {line}")
    return report.finish(args)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=1, help="random cuts of each answer, by kind of sampling")
    parser.add_argument("--tokens", type=int, default=40, help="longest answer")
    parser.add_argument("--timed", type=int, default=10, help="contexts on which time is measured")
    parser.add_argument("--passages", type=int, default=16, help="times the passage is in those contexts")
    sys.exit(asyncio.run(main(read_options(parser))))

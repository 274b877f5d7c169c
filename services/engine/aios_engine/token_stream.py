"""Where the tokens of one generation pass from the engine thread to the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

from aios_engine.backend import Progress, TokenEvent
from aios_engine.errors import EngineError

News: TypeAlias = TokenEvent | EngineError
"""What the engine thread has to say of a generation: its next token, or why there is none."""


class TokenStream:
    """The event loop's end of a generation (`backend.Generation`)."""

    def __init__(self, progress: Progress, cancel: Callable[[], object]) -> None:
        self._progress = progress
        self._cancel = cancel
        self._news: asyncio.Queue[News] = asyncio.Queue()
        self._ended = False

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return self._progress

    def put(self, news: News) -> None:
        """Takes a token or an error from the engine thread; called on the event loop."""
        self._news.put_nowait(news)

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Tokens as they come."""
        while not self._ended:
            news = await self._news.get()
            if isinstance(news, EngineError):
                self._ended = True
                raise news
            self._ended = news.ending is not None
            yield news

    def close(self) -> None:
        """Stops the generation if it has not ended."""
        if not self._ended:
            self._ended = True
            self._cancel()

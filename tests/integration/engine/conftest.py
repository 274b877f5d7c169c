"""One engine for all tests of this folder, and a client."""

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from support.engine import running_engine


@pytest.fixture(scope="session")
def engine_url() -> Iterator[str]:
    with running_engine() as url:
        yield url


@pytest.fixture
async def http(engine_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(engine_url, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session

"""One world for all attacks."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.attack_world import AttackWorld, attack_world


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AttackWorld]:
    async with attack_world(tmp_path_factory.mktemp("attack")) as made:
        yield made

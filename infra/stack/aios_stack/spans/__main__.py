"""`python -m aios_stack.spans`: runs the span store until SIGTERM."""

import asyncio
import signal
import sys

from pydantic import ValidationError

from aios_stack.spans.receiver import running
from aios_stack.spans.settings import SpanStoreSettings


async def _serve(settings: SpanStoreSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as url:
        sys.stderr.write(f"span store at {url}, file {settings.path}\n")
        await stop.wait()


def main() -> int:
    """Exit code 0 after SIGTERM, 1 where the store cannot start."""
    try:
        asyncio.run(_serve(SpanStoreSettings()))
    except ValidationError as error:
        sys.stderr.write(f"settings: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"span store: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

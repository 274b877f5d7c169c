"""A forwarding hop that decides nothing: what the access hop is compared with.

    python benchmarks/bare_hop.py <url> <nkey seed file>

It forwards `aios.evt.bench.in` to `aios.evt.bench.out` with the headers it got and the reply subject in one more.
"""

import asyncio
import signal
import sys

import uvloop
from bench_bus import BARE_IN, BARE_OUT
from nats.aio.client import Client
from nats.aio.msg import Msg

from aios_proto import headers as wire


async def main(url: str, seed: str) -> None:
    nc = Client()
    await nc.connect(url, nkeys_seed=seed)

    async def forward(message: Msg) -> None:
        headers = dict(message.headers or {})
        headers[wire.REPLY] = message.reply
        await nc.publish(BARE_OUT, message.data, headers=headers)

    await nc.subscribe(BARE_IN, queue="bare", cb=forward)
    await nc.flush()
    print("ready", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await nc.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))

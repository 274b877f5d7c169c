"""Which TCP ports the processes of a stack listen on: the same as last time where they are free.

They are taken from below the range that outgoing connections use, so that a process that is restarted finds its port
still free.
"""

import random
import socket
from collections.abc import Mapping, Sequence

FIRST, LAST = 20_000, 29_999
_TRIES = 200


def choose_ports(names: Sequence[str], previous: Mapping[str, int], host: str = "127.0.0.1") -> dict[str, int]:
    """A free port for each name.

    Args:
        names: who needs one.
        previous: ports of an earlier run, kept where nobody else has taken them.
        host: the address they will be bound to.

    Raises:
        OSError: no free port was found.
    """
    chosen: dict[str, int] = {}
    for name in names:
        wanted = previous.get(name)
        if wanted is not None and wanted not in chosen.values() and is_free(wanted, host):
            chosen[name] = wanted
        else:
            chosen[name] = _any_free(set(chosen.values()) | set(previous.values()), host)
    return chosen


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _any_free(taken: set[int], host: str) -> int:
    for _ in range(_TRIES):
        port = random.randint(FIRST, LAST)  # noqa: S311 - nothing depends on its being unpredictable
        if port not in taken and is_free(port, host):
            return port
    raise OSError(f"no free port between {FIRST} and {LAST}")

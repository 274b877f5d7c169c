"""How large things may be on the wire."""

from typing import Final

MAX_BODY_BYTES: Final = 1 << 20
"""A call's body, in bytes: 1 MiB. Larger content goes into storage and is named by its path."""

BUS_MAX_PAYLOAD_BYTES: Final = 4 << 20
"""What the bus itself carries, body and headers, in bytes: more than a body may have, so that a body that is too
large still reaches access and gets its typed error instead of a closed connection."""

"""Whether the process in this container is ready: exit code 0 where its probe answers 200.

A bare socket, because this runs every few seconds in every container and importing an HTTP client costs more than
the request.
"""

import os
import socket
import sys

TIMEOUT_S = 3.0


def main() -> int:
    """Asks `AIOS_HEALTH_PORT` (else `AIOS_HTTP_PORT`) for `AIOS_HEALTH_PATH` (else `/readyz`)."""
    port = int(os.environ.get("AIOS_HEALTH_PORT") or os.environ["AIOS_HTTP_PORT"])
    path = os.environ.get("AIOS_HEALTH_PATH", "/readyz")
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError as error:
        sys.stderr.write(f"port {port}: {error}\n")
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    sys.stdout.write(body.decode(errors="replace"))  # kept by the container engine as the reason
    return 0 if head.split(b" ")[1:2] == [b"200"] else 1


if __name__ == "__main__":
    sys.exit(main())

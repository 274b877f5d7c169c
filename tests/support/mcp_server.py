"""An MCP server of the test's own, on the official SDK: over stdio, or over HTTP behind a secret. Its tools misbehave.

python -m support.mcp_server                    stdio
python -m support.mcp_server 8123 the-secret    http://127.0.0.1:8123/mcp
"""

import os
import sys
from pathlib import Path

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

server = MCPServer("misbehaving")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def pid() -> int:
    """Tells which process answers."""
    return os.getpid()


@server.tool()
def crash() -> None:
    """Ends the process in the middle of the call."""
    os._exit(3)


@server.tool(annotations=ToolAnnotations(destructive_hint=True))
def destroy() -> str:
    """Says that it cannot be undone."""
    return "gone"


@server.tool()
def refuse() -> None:
    """Fails."""
    raise ToolError("not like this")


@server.tool()
async def grow(context: Context) -> str:
    """Adds a tool, and says that the list has changed."""

    def grown() -> str:
        """Was not there before."""
        return "new"

    server.add_tool(grown)
    await context.notify_tools_changed()
    return "grown"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def hang(path: str) -> None:
    """Writes into a file that it has begun, and, once it is told that nobody waits any more, that it was stopped."""
    write = Path(path).write_text
    write("begun")
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        write("stopped")
        raise


class Guarded:
    """Lets only those in who bring the secret."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and Request(scope).headers.get("authorization") != f"Bearer {self._secret}":
            refusal: Response = PlainTextResponse("who are you?", 401)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def main() -> None:
    if len(sys.argv) == 1:
        anyio.run(server.run_stdio_async)
        return
    app = Guarded(server.streamable_http_app(), sys.argv[2])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")


if __name__ == "__main__":
    main()

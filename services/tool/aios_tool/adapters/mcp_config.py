"""Which MCP servers are mounted: the file `AIOS_TOOL_MCP_FILE`, in the form other MCP clients use, and a little more.

    {"mcpServers": {
        "files": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "/srv"]},
        "search": {"url": "https://search.example.org/mcp", "secret_headers": {"Authorization": "/run/secrets/search"}}
    }}

Secrets stand in files of their own, which are read at each connection, so that they can be rotated.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aios_proto.errors import InvalidRequest
from aios_proto.messages.tool import Effect
from aios_proto.names import Name


class McpServerConfig(BaseModel):
    """One server: a command that speaks MCP on stdin and stdout, or a URL that speaks streamable HTTP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str | None = None
    args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    secret_env: dict[str, Path] = Field(default_factory=dict, description="variables whose values stand in files")
    cwd: Path | None = None
    url: str | None = Field(None, pattern=r"^https?://")
    headers: dict[str, str] = Field(default_factory=dict)
    secret_headers: dict[str, Path] = Field(default_factory=dict, description="headers whose values stand in files")
    timeout_s: float = Field(60, gt=0, le=3600, description="of one call")
    concurrency: int = Field(16, ge=1, le=1024, description="calls of one tool at once")
    effects: dict[str, list[Effect]] = Field(
        default_factory=dict, description="by tool; for the others the server's own hints hold"
    )
    writes: dict[str, list[str]] = Field(default_factory=dict, description="resources by tool, see `ToolSpec.writes`")

    @model_validator(mode="after")
    def _one_way_in(self) -> "McpServerConfig":
        if (self.command is None) == (self.url is None):
            msg = "give either a command or a url"
            raise ValueError(msg)
        return self


class McpConfig(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    servers: dict[Name, McpServerConfig] = Field(alias="mcpServers")


def read_mcp_config(path: Path) -> McpConfig:
    """Reads the file.

    Raises:
        InvalidRequest: it cannot be read, or is not of that form.
    """
    try:
        return McpConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error}", field="tool_mcp_file") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{path}: {where}: {first['msg']}", field=where) from error


def read_secrets(files: dict[str, Path]) -> dict[str, str]:
    """The values that stand in files.

    Raises:
        OSError: one cannot be read.
    """
    return {name: path.read_text().strip() for name, path in files.items()}

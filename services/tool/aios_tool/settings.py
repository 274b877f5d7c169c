"""What the tool manager can be told from outside."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from aios_kit.settings import ServiceSettings


class ToolSettings(ServiceSettings):
    """Settings of the tool manager, `AIOS_TOOL_*`, beside those all services share."""

    tool_max_calls: int = Field(4096, ge=1, description="calls open at once; further ones are refused")
    tool_result_memory_s: float = Field(600, gt=0, description="seconds for which an ended call is answered again")
    tool_max_result_bytes: int = Field(1 << 20, ge=1024, description="bytes of JSON a tool may answer")
    tool_breaker_failures: int = Field(5, ge=1, description="failures in a row after which a tool is left alone")
    tool_breaker_rest_s: float = Field(5, gt=0, description="seconds a failing tool is left alone at first")
    tool_lease_s: float = Field(
        2.0,
        ge=0.4,
        le=30,
        description="seconds without a sign of life of the active tool manager after which a standby takes over",
    )
    tool_ping_s: float = Field(1, gt=0, description="seconds between looks whether the process of a call still lives")
    tool_builtins: list[str] = Field(
        default_factory=lambda: ["calculator", "time", "files", "memory", "fetch", "python"],
        description="built-in tools that are offered; `python` only where a sandbox holds, `fetch` only with hosts",
    )
    tool_fetch_hosts: list[str] = Field(
        default_factory=list,
        description="hosts `fetch` may reach: `example.org`, `*.example.org`, or `*` for any public one",
    )
    tool_fetch_max_bytes: int = Field(1 << 19, ge=1024, description="bytes of a page that are kept")
    tool_sandbox: Literal["auto", "bubblewrap", "rlimit", "off"] = Field(
        "auto",
        description="what holds code: `auto` is bubblewrap where it works, else off; `rlimit` is weaker, see the docs",
    )
    tool_sandbox_memory_bytes: int = Field(256 << 20, ge=32 << 20, description="memory of one process in the sandbox")
    tool_sandbox_cpu_s: int = Field(10, ge=1, description="seconds of CPU of one run")
    tool_sandbox_output_bytes: int = Field(1 << 18, ge=1024, description="bytes of output of one run")
    tool_mcp_file: Path | None = Field(None, description="JSON file with the MCP servers to mount; see the docs")

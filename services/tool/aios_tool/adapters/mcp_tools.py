"""How a tool of an MCP server looks as one of ours, and its result as JSON."""

import re
from collections.abc import Mapping

from mcp.types import CallToolResult, TextContent, Tool
from pydantic import JsonValue, ValidationError

from aios_proto.errors import ToolFailed
from aios_proto.messages.tool import Effect, ToolSpec
from aios_tool.adapters.mcp_config import McpServerConfig

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_NAME_CHARS = 64


def name_of(server: str, tool: str) -> str:
    """`<server>__<tool>`, with what a name may not hold replaced."""
    return _NOT_IN_NAMES.sub("_", f"{server}__{tool}")[:_NAME_CHARS]


def specs_of(server: str, config: McpServerConfig, tools: list[Tool]) -> tuple[dict[str, str], list[ToolSpec]]:
    """Each name of ours with the server's, and the declarations; a tool that cannot be one is left out."""
    names: dict[str, str] = {}
    specs: list[ToolSpec] = []
    for tool in tools:
        name = name_of(server, tool.name)
        try:
            spec = ToolSpec(
                name=name,
                description=(tool.description or tool.title or "")[:8192],
                input_schema=tool.input_schema,
                output_schema=tool.output_schema,
                effects=config.effects.get(tool.name, _effects(tool)),
                writes=config.writes.get(tool.name, []),
                timeout_s=config.timeout_s,
                concurrency=config.concurrency,
            )
        except ValidationError:
            continue
        if name not in names:
            names[name] = tool.name
            specs.append(spec)
    return names, specs


def _effects(tool: Tool) -> list[Effect]:
    """By the server's own hints; the operator who mounted it vouches for them, or overrides them."""
    hints = tool.annotations
    if hints is None:
        return []
    if hints.read_only_hint:
        return ["read_only"]
    effects: list[Effect] = []
    if hints.idempotent_hint:
        effects.append("idempotent")
    if hints.destructive_hint:
        effects.append("irreversible")
    return effects


def content_of(result: CallToolResult, *, structured: bool) -> JsonValue:
    """A result as JSON: its structured content where declared, one text as a string, else the blocks.

    Raises:
        ToolFailed: the tool says that it failed.
    """
    if result.is_error:
        texts = [block.text for block in result.content if isinstance(block, TextContent)]
        raise ToolFailed("\n".join(texts)[:4000] or "the tool failed without saying why")
    if structured and result.structured_content is not None:
        given: Mapping[str, JsonValue] = result.structured_content
        return dict(given)
    if len(result.content) == 1 and isinstance(result.content[0], TextContent):
        return result.content[0].text
    return [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content]

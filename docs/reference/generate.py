"""Writes the reference pages from the code: `settings.md` and `errors.md`.

python docs/reference/generate.py [--check]
"""

import sys
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from aios_access.settings import AccessSettings
from aios_context.settings import ContextSettings
from aios_engine.embedding.settings import EmbeddingSettings
from aios_engine.settings import EngineSettings
from aios_kit.settings import ServiceSettings
from aios_kit.vectors.settings import VectorSettings
from aios_llm.embedding.settings import EmbedWorkerSettings
from aios_llm.settings import WorkerSettings
from aios_memory.settings import MemorySettings
from aios_proto.errors import wire_codes
from aios_scheduler.settings import SchedulerSettings
from aios_stack.spans.settings import SpanStoreSettings
from aios_storage.settings import StorageSettings
from aios_tool.settings import ToolSettings

HERE = Path(__file__).parent
PAGES: list[tuple[str, type[BaseSettings], type[BaseSettings] | None]] = [
    ("All services", ServiceSettings, None),
    ("Access", AccessSettings, ServiceSettings),
    ("Scheduler", SchedulerSettings, ServiceSettings),
    ("LLM worker", WorkerSettings, ServiceSettings),
    ("Context manager", ContextSettings, ServiceSettings),
    ("Storage manager", StorageSettings, ServiceSettings),
    ("Tool manager", ToolSettings, ServiceSettings),
    ("CPU engine", EngineSettings, ServiceSettings),
    ("Memory manager", MemorySettings, ServiceSettings),
    ("Vector store", VectorSettings, ServiceSettings),
    ("Embedding worker", EmbedWorkerSettings, ServiceSettings),
    ("Embedding server", EmbeddingSettings, ServiceSettings),
    ("Span store", SpanStoreSettings, ServiceSettings),
]


def variable(model: type[BaseSettings], name: str) -> str:
    """The environment variable of one setting."""
    alias = model.model_fields[name].validation_alias
    choices = getattr(alias, "choices", None)
    if choices:
        return str(choices[0])
    if isinstance(alias, str):
        return alias
    return f"{model.model_config.get('env_prefix', '')}{name}".upper()


def default(field: Any) -> str:
    """What holds when the variable is not set."""
    if field.default_factory is not None:
        return "see the description"
    if field.default is PydanticUndefined:
        return "required"
    return "none" if field.default is None else f"`{field.default}`"


def settings_page() -> str:
    """All environment variables, a table for each part."""
    lines = ["# Settings", "", "Environment variables of each part. Written by `make reference`.", ""]
    for title, model, base in PAGES:
        known = set() if base is None else set(base.model_fields)
        lines += [f"## {title}", "", "| variable | default | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            if name in known and issubclass(model, ServiceSettings) and model is not ServiceSettings:
                continue
            lines.append(f"| `{variable(model, name)}` | {default(field)} | {field.description or ''} |")
        lines.append("")
    return "\n".join(lines)


def errors_page() -> str:
    """All errors that cross the wire."""
    lines = [
        "# Errors",
        "",
        "Every error has a stable code. `aios` raises the class of the same row. Written by `make reference`.",
        "",
        "| code | class | retryable | meaning |",
        "|---|---|---|---|",
    ]
    for code, cls in wire_codes().items():
        meaning = " ".join((cls.__doc__ or "").split())
        lines.append(f"| `{code}` | `{cls.__name__}` | {'yes' if cls.default_retryable else 'no'} | {meaning} |")
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> int:
    """Writes the pages; with `--check` only compares, and exits 1 where one differs."""
    differing = []
    for name, text in (("settings.md", settings_page()), ("errors.md", errors_page())):
        path = HERE / name
        if "--check" not in arguments:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            differing.append(name)
    if differing:
        sys.stderr.write(f"out of date, run `make reference`: {', '.join(differing)}\n")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

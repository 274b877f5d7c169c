"""What may stand as one token of a subject: the names of tenants, agents, managers, pools and workers."""

import re
from typing import Annotated

from pydantic import Field

NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
OPERATION_PATTERN = r"^[a-z][a-z0-9_]{0,31}(\.[a-z][a-z0-9_]{0,31}){0,3}$"
SYSCALL_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN, description="1 to 64 letters, digits, `_` or `-`")]
SyscallId = Annotated[str, Field(pattern=SYSCALL_ID_PATTERN, description="id of a system call; a ULID by default")]

_NAME = re.compile(NAME_PATTERN.replace("$", r"\Z"))
_OPERATION = re.compile(OPERATION_PATTERN.replace("$", r"\Z"))
_SYSCALL_ID = re.compile(SYSCALL_ID_PATTERN.replace("$", r"\Z"))


def is_name(text: str) -> bool:
    """Whether `text` is a legal tenant, agent, manager, pool or worker name."""
    return _NAME.match(text) is not None


def is_operation(text: str) -> bool:
    """Whether `text` is a legal operation, one to four dotted tokens such as `chat` or `pool.create`."""
    return _OPERATION.match(text) is not None


def is_syscall_id(text: str) -> bool:
    """Whether `text` can identify a call: safe as a subject token, a KV key and a message id."""
    return _SYSCALL_ID.match(text) is not None

"""`python -m aios_stack.supervise DATA`: the supervisor as a process of its own, as `aios up` starts it.

It reads its options as JSON from standard input and writes its states as JSON lines to standard output until
everything is ready or it gives up; then it closes standard output and goes on alone.
"""

import asyncio
import os
import sys
import traceback
from pathlib import Path

from aios_proto.errors import AiosError, InternalError
from aios_stack.data_folder import DataFolder, StackState
from aios_stack.stack import run_stack
from aios_stack.topology import StackOptions


class _Parent:
    """The process that waits for the start, for as long as it does."""

    def __init__(self) -> None:
        self._open = True

    def state(self, state: StackState) -> None:
        self._write(state.model_dump_json())
        if state.ready or state.stopping:
            self._close()

    def error(self, error: AiosError) -> None:
        self._write(error.body().model_dump_json())
        self._close()

    def _write(self, line: str) -> None:
        if not self._open:
            return
        try:
            os.write(sys.stdout.fileno(), line.encode() + b"\n")
        except OSError:  # it has gone; the stack goes on
            self._open = False

    def _close(self) -> None:
        if self._open:
            self._open = False
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def main() -> int:
    """Exit code 0 where everything was ready at some time, else 1."""
    options = StackOptions.model_validate_json(sys.stdin.buffer.read())
    parent = _Parent()
    try:
        return 0 if asyncio.run(run_stack(options, DataFolder(Path(sys.argv[1])), parent.state)) else 1
    except AiosError as error:
        parent.error(error)
    except OSError as error:
        parent.error(InternalError(f"cannot start the stack: {error}"))
    except Exception:
        traceback.print_exc()
        parent.error(InternalError("the supervisor failed; its log says why"))
    return 1


if __name__ == "__main__":
    sys.exit(main())

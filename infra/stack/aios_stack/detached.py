"""How a supervisor is started in the background and its way to readiness is followed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import psutil

from aios_proto.errors import AiosError, ErrorBody, InternalError
from aios_stack.data_folder import DataFolder, StackState
from aios_stack.supervision import State
from aios_stack.topology import StackOptions

_LAST_LINES = 15


def start_detached(options: StackOptions, folder: DataFolder, on_state: Callable[[StackState], None]) -> StackState:
    """Starts a supervisor and blocks until everything is ready; the supervisor outlives this process.

    Args:
        options: what to run.
        folder: where to keep it.
        on_state: called with every state on the way.

    Raises:
        AiosError: it could not be started; what had been started has been ended again.
        KeyboardInterrupt: the user did not want to wait; likewise.
    """
    folder.create()
    with folder.log("supervisor").open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-P", "-m", "aios_stack.supervise", str(folder.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    last: StackState | None = None
    try:
        with supervisor.stdin as options_in:
            options_in.write(options.model_dump_json().encode())
        with supervisor.stdout as lines:
            for line in lines:
                document = json.loads(line)
                if "code" in document:
                    raise AiosError.from_body(ErrorBody.model_validate(document))
                last = StackState.model_validate(document)
                on_state(last)
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            os.kill(supervisor.pid, signal.SIGTERM)
        supervisor.wait()
        raise
    if last is None or not last.ready:
        supervisor.wait()
        raise why_not(folder, last)
    supervisor.returncode = 0  # it lives on; Popen would otherwise complain that it was not waited for
    return last


def why_not(folder: DataFolder, state: StackState | None) -> AiosError:
    """The error for a stack that did not come up, with the end of the log that tells the cause."""
    failed = [row.name for row in state.processes if row.state is State.FAILED] if state is not None else []
    name = failed[0] if failed else "supervisor"
    path = folder.log(name)
    lines = path.read_text(errors="replace").splitlines()[-_LAST_LINES:] if path.exists() else []
    text = "".join(f"\n    {line}" for line in lines)
    return InternalError(f"{name} did not start; the end of {path}:{text}")


def stop(folder: DataFolder, state: StackState, timeout_s: float) -> bool:
    """Asks the supervisor to end everything; blocks until it has. False where it takes longer than `timeout_s`."""
    try:
        process = psutil.Process(state.supervisor_pid)
        process.terminate()
        process.wait(timeout_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return not folder.is_running()
    return True

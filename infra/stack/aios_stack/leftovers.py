"""Which processes a killed supervisor has left behind, and how they are ended."""

import contextlib

import psutil

from aios_stack.data_folder import ProcessState, StackState

_TIMEOUT_S = 10.0


def end_leftovers(state: StackState, timeout_s: float = _TIMEOUT_S) -> list[str]:
    """Ends processes whose supervisor was killed; blocks until they are gone. Gives their names."""
    found: dict[str, psutil.Process] = {}
    for row in state.processes:
        process = find_process(row)
        if process is not None:
            found[row.name] = process
    for process in found.values():
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(list(found.values()), timeout=timeout_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=timeout_s)
    return list(found)


def find_process(row: ProcessState) -> psutil.Process | None:
    """The process a row speaks of; None where it has ended, also where another has its pid now."""
    if row.pid is None or row.created_s is None:
        return None
    try:
        process = psutil.Process(row.pid)
        same = abs(process.create_time() - row.created_s) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if same else None

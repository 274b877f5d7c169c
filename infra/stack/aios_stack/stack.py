"""What one run of an embedded installation does: credentials, ports, processes, state, and no leftovers."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

from aios_stack.certificates import provision_certificates
from aios_stack.data_folder import DataFolder, ProcessState, StackState
from aios_stack.leftovers import end_leftovers
from aios_stack.nats_config import render
from aios_stack.ports import choose_ports
from aios_stack.provision import local_node, provision_credentials
from aios_stack.secret_files import SecretFiles, write_private
from aios_stack.supervisor import Supervisor
from aios_stack.topology import StackOptions, port_names, processes

OnState = Callable[[StackState], None]


async def run_stack(options: StackOptions, folder: DataFolder, on_state: OnState) -> bool:
    """Runs everything until SIGTERM or SIGINT, or until a part cannot be started.

    Args:
        options: what to run.
        folder: where to keep it.
        on_state: called after every change, on the event loop; must not block.

    Returns:
        Whether everything was ready at some time.

    Raises:
        ResourceConflict: a stack is running in that folder.
        InvalidRequest: nats-server is not installed.
        OSError: no free ports, or the folder cannot be written.
    """
    folder.create()
    with folder.lock():
        previous = folder.read_state()
        if previous is not None:
            await asyncio.to_thread(end_leftovers, previous)
        supervisor = _prepare(options, folder, previous, on_state)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        try:
            return await supervisor.run()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def _prepare(options: StackOptions, folder: DataFolder, previous: StackState | None, on_state: OnState) -> Supervisor:
    secrets = SecretFiles(folder.secrets)
    credentials = provision_credentials(secrets, tenant=options.tenant)
    certificates = provision_certificates(secrets) if options.tls else None
    ports = choose_ports(port_names(options), previous.ports if previous is not None else {})
    folder.nats.mkdir(exist_ok=True)
    node = local_node(
        credentials,
        folder.nats / "jetstream",
        port=ports["nats.client"],
        monitor_port=ports["nats.monitor"],
        tls=None if certificates is None else certificates.server,
    )
    write_private(folder.nats / "server.conf", render(node))
    specs = processes(options, folder, credentials, ports, certificates=certificates)
    engine_url = options.engine_url
    if options.own_engine:
        engine_url = f"http://127.0.0.1:{ports['engine.http']}"
    head = StackState(
        supervisor_pid=os.getpid(),
        started_s=time.time(),
        url=f"nats://127.0.0.1:{ports['nats.client']}",
        agent_certificate=None if certificates is None else certificates.agent,
        monitoring_url=f"http://127.0.0.1:{ports['nats.monitor']}",
        otlp_endpoint=f"http://127.0.0.1:{ports['spans.otlp']}",
        engine_url=engine_url,
    )

    async def report(supervisor: Supervisor) -> None:
        state = head.model_copy(
            update={"stopping": supervisor.core.stopping, "processes": process_states(supervisor)},
        )
        await asyncio.to_thread(folder.write_state, state)
        on_state(state)

    return Supervisor(specs, folder.log, report)


def process_states(supervisor: Supervisor) -> list[ProcessState]:
    """What is known of every process, in the order of the specification."""
    offset_s = time.time() - time.monotonic()
    rows = []
    for spec in supervisor.specs:
        status, running = supervisor.core.status[spec.name], supervisor.running[spec.name]
        rows.append(
            ProcessState(
                name=spec.name,
                state=status.state,
                since_s=status.since_s + offset_s,
                pid=running.pid,
                created_s=running.created_s,
                restarts=status.restarts,
                last_exit=status.last_exit,
                ports=dict(spec.ports),
                detail=running.detail,
            )
        )
    return rows

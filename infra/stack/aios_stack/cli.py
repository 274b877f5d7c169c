"""Which commands the stack adds to `aios`; found through the entry-point group `aios.commands`."""

from collections.abc import Sequence

import click

from aios_stack.commands.agent import agent
from aios_stack.commands.approvals import approvals
from aios_stack.commands.audit import audit
from aios_stack.commands.backup import backup, restore
from aios_stack.commands.down import down
from aios_stack.commands.logs import logs
from aios_stack.commands.policy import policy
from aios_stack.commands.pool import pool
from aios_stack.commands.provision import provision
from aios_stack.commands.ps import ps
from aios_stack.commands.quota import quota
from aios_stack.commands.run import run
from aios_stack.commands.tenant import tenant
from aios_stack.commands.top import top
from aios_stack.commands.trace import trace
from aios_stack.commands.up import up

commands: Sequence[click.Command] = (
    up,
    down,
    ps,
    logs,
    run,
    top,
    trace,
    agent,
    tenant,
    policy,
    quota,
    pool,
    approvals,
    audit,
    backup,
    restore,
    provision,
)

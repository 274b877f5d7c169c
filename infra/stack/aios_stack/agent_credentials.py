"""Which credential `aios run` gives an agent: the one it made before, or a new one by the operator's authority."""

from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from aios import Agent
from aios_proto.errors import ResourceConflict, ResourceNotFound
from aios_proto.messages.access import AgentCreateRequest, AgentCredential, AgentInfo, AgentListResult, AgentRef
from aios_stack.data_folder import DataFolder
from aios_stack.secret_files import SecretFiles

_DEADLINE_S = 15.0


async def agent_token(folder: DataFolder, url: str, name: str, group: str) -> str:
    """A token that works for the agent of that name, in the operator's tenant.

    Args:
        folder: where the operator's token lies and agents' tokens are kept.
        url: the bus.
        name: of the agent.
        group: its privilege group.

    Raises:
        ResourceConflict: the agent exists in another group; `aios run` does not change rights.
        ResourceNotFound: the folder has no operator's token.
        AiosError: the kernel refused, or could not be reached.
    """
    try:
        operator_token = folder.operator_token.read_text().strip()
    except FileNotFoundError as error:
        raise ResourceNotFound(f"{folder.operator_token} is missing; `aios up` makes it") from error
    async with Agent(token=operator_token, url=url) as operator:
        if name == operator.name:
            raise ResourceConflict(f"{name!r} is the operator; give the agent another name with --as", field="as")
        credentials = SecretFiles(folder.agents)
        kept = credentials.path(f"{operator.tenant}.{name}.token")
        known = await _find(operator, name)
        if known is None:
            request = AgentCreateRequest(agent=name, group=group)
            made = await operator.syscall("access", "agent.create", request, deadline_s=_DEADLINE_S)
            return _keep(credentials, kept, AgentCredential.model_validate(made.result))
        if known.group != group:
            raise ResourceConflict(f"the agent {name!r} exists in group {known.group!r}", field="group")
        if kept.exists():
            return kept.read_text().strip()
        made = await operator.syscall("access", "agent.rotate", AgentRef(agent=name), deadline_s=_DEADLINE_S)
        return _keep(credentials, kept, AgentCredential.model_validate(made.result))


def hide_own_calls() -> None:
    """Keeps the calls this process makes out of the traces: `aios trace --last` is about the agent's calls.

    For a process that replaces itself by the agent: OpenTelemetry's provider can be set only once.
    """
    trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_OFF))


async def _find(operator: Agent, name: str) -> AgentInfo | None:
    listed = await operator.syscall("access", "agent.list", deadline_s=_DEADLINE_S)
    agents = AgentListResult.model_validate(listed.result).agents
    return next((agent for agent in agents if agent.agent == name), None)


def _keep(credentials: SecretFiles, path: Path, made: AgentCredential) -> str:
    return credentials.replace(path.name, made.token)

"""What is known of a call from its subject alone, found out once and remembered; and what the policies said last."""

from dataclasses import dataclass

from aios_access.directory import Identity
from aios_access.policy_set import Decision, PolicySet
from aios_proto import subjects
from aios_proto.operations import OPERATIONS, Operation
from aios_proto.subjects import SyscallSubject

_REMEMBERED = 65_536


@dataclass(slots=True)
class Route:
    """One agent's calls of one operation.

    Attributes:
        subject: taken apart.
        agent_key: the caller's place in the directory.
        inbox: what every reply subject of this agent begins with.
        operation: its entry in the system-call table; None where there is no such operation.
        target: where such a call goes on to; empty where there is no such operation.
        name: `<manager>.<operation>` as counted and traced: `unknown` where there is none.
        served_here: access itself answers it.
        decision: what the policies said last about such a call; None where that depends on more.
    """

    subject: SyscallSubject
    agent_key: str
    inbox: str
    operation: Operation | None
    target: str
    name: str
    served_here: bool = False
    decision: Decision | None = None
    _judged_by: int = 0
    _identity: Identity | None = None

    @classmethod
    def of(cls, subject: SyscallSubject) -> "Route":
        """The route of a subject, new."""
        operation = OPERATIONS.get((subject.manager, subject.operation))
        target, served_here = "", False
        if operation is not None:
            served_here = operation.full_name in subjects.ABOUT_CALLS
            target = (subjects.about_calls if served_here else subjects.kernel)(operation.manager, operation.name)
        return cls(
            subject,
            f"{subject.tenant}.{subject.agent}",
            f"_INBOX.{subject.tenant}.{subject.agent}.",
            operation,
            target,
            "unknown" if operation is None else operation.full_name,
            served_here,
        )

    def early_decision(self, policies: PolicySet, identity: Identity, operation: Operation) -> Decision | None:
        """See `PolicySet.decide_early`; asked again only of other policies, or for another identity of that name."""
        if self._judged_by != policies.serial or self._identity is not identity:
            self.decision = policies.decide_early(identity, operation)
            self._judged_by, self._identity = policies.serial, identity
        return self.decision


class Routes:
    """The routes calls have taken."""

    def __init__(self) -> None:
        self._known: dict[str, Route] = {}

    def find(self, subject: str) -> Route | None:
        """The route of a system call's subject; None where it is the subject of none."""
        route = self._known.get(subject)
        if route is None:
            parsed = subjects.parse_syscall(subject)
            if parsed is None:
                return None
            route = Route.of(parsed)
            if route.operation is not None:  # what agents make up is not remembered
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[subject] = route
        return route

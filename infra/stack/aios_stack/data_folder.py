"""Where an embedded installation keeps what: one folder, one lock, one state file."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from aios_proto.errors import ResourceConflict
from aios_stack.certificates import CertificateFiles
from aios_stack.secret_files import write_private
from aios_stack.supervision import State

DEFAULT_FOLDER = ".aios"


class ProcessState(BaseModel):
    """One process, as the supervisor last saw it.

    Attributes:
        created_s: Unix time the operating system gives for the process' start; tells it from a later one of that pid.
        since_s: Unix time at which it came into its state.
        detail: what it waits for or does, while it is not ready.
    """

    name: str
    state: State
    since_s: float
    pid: int | None = None
    created_s: float | None = None
    restarts: int = 0
    last_exit: int | None = None
    ports: dict[str, int] = {}
    detail: str = ""


class StackState(BaseModel):
    """Everything the commands need to know of a stack.

    Attributes:
        url: where agents connect.
        tenant: whose operator the token belongs to.
        otlp_endpoint: base URL of the span store.
        agent_certificate: what agents and commands show to a bus that speaks TLS; None where it does not.
        engine_url: the inference engine of the workers; None without one.
    """

    supervisor_pid: int
    started_s: float
    url: str
    monitoring_url: str
    otlp_endpoint: str
    engine_url: str | None = None
    agent_certificate: CertificateFiles | None = None
    stopping: bool = False
    processes: list[ProcessState] = []

    @property
    def ready(self) -> bool:
        """Whether every process is."""
        return bool(self.processes) and all(process.state is State.READY for process in self.processes)

    @property
    def summary(self) -> str:
        """One line on what is still to come."""
        waiting = [
            f"{row.name}: {row.detail or row.state.value}" for row in self.processes if row.state is not State.READY
        ]
        return " · ".join(waiting) or "everything is ready"

    @property
    def ports(self) -> dict[str, int]:
        """All ports, as `<process>.<what>`."""
        return {f"{p.name}.{what}": port for p in self.processes for what, port in p.ports.items()}


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The folder and the places in it."""

    path: Path

    @classmethod
    def find(cls, given: Path | None) -> "DataFolder":
        """The folder given, else `$AIOS_DATA`, else `./.aios`."""
        return cls((given or Path(os.environ.get("AIOS_DATA") or DEFAULT_FOLDER)).expanduser().resolve())

    @property
    def secrets(self) -> Path:
        """Keys and tokens; 0700."""
        return self.path / "secrets"

    @property
    def agents(self) -> Path:
        """Credentials that `aios run` has made; 0700."""
        return self.path / "agents"

    @property
    def nats(self) -> Path:
        """The bus' configuration and store."""
        return self.path / "nats"

    @property
    def spans(self) -> Path:
        """The span store's file."""
        return self.path / "spans.db"

    @property
    def key_ring(self) -> Path:
        """The tenants' keys, for the services that keep their data; 0700."""
        return self.path / "key-ring"

    @property
    def vectors(self) -> Path:
        """The vectors of the embedded engine, a folder for each service that keeps some."""
        return self.path / "vectors"

    @property
    def operator_token(self) -> Path:
        """The operator's token."""
        return self.secrets / "operator.token"

    def log(self, name: str) -> Path:
        """The log file of one process."""
        return self.path / "logs" / f"{name}.log"

    def logs(self) -> list[str]:
        """Names of the processes that have a log."""
        return sorted(path.stem for path in (self.path / "logs").glob("*.log"))

    def read_state(self) -> StackState | None:
        """What the supervisor wrote last; None where no stack has run here."""
        try:
            return StackState.model_validate_json((self.path / "stack.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None  # nothing, or written by another version: either way nothing that could be used

    def write_state(self, state: StackState) -> None:
        """Replaces the state, atomically."""
        write_private(self.path / "stack.json", state.model_dump_json(indent=2) + "\n")

    def create(self) -> None:
        """Makes the folder, for its owner only."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        (self.path / "logs").mkdir(exist_ok=True)

    def is_running(self) -> bool:
        """Whether a supervisor holds the folder's lock."""
        try:
            with self.lock():
                return False
        except ResourceConflict:
            return True
        except FileNotFoundError:
            return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder; the operating system lets go of it when the process ends, however it ends.

        Raises:
            ResourceConflict: another process holds it.
        """
        with (self.path / "stack.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ResourceConflict(f"a stack is running in {self.path}") from error
            yield

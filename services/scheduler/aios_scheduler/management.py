"""The scheduler's small operations: who serves which model, whose calls are open, draining workers, changing policy."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable

from aios_kit.service import Call, Service
from aios_proto.errors import ResourceNotFound, SyscallUnknown
from aios_proto.messages import scheduler as management
from aios_proto.messages import syscall
from aios_proto.messages.base import Empty
from aios_proto.messages.llm import ModelInfo, ModelsResult
from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.call import CallState, ModelCall
from aios_scheduler.core.configuration import Configuration
from aios_scheduler.core.events import CancelAsked, Event, Tick
from aios_scheduler.core.pool import Pool
from aios_scheduler.core.workers import Worker
from aios_scheduler.ledger import Ledger

_SHOWN = 20

SECOND_LOOK_S = 0.5
"""A call that access has taken may not have come out of the durable queue yet: so long it is waited for."""


class Management:
    """Answers the operations that are asked of the scheduler itself."""

    def __init__(
        self,
        service: Service,
        core: SchedulerCore,
        ledger: Ledger,
        feed: Callable[[Event], None],
        fence: Callable[[], int],
        choose: Callable[[management.PolicyRequest], Awaitable[Configuration]],
    ) -> None:
        self._core = core
        self._instance = service.settings.instance
        self._fence = fence
        self._choose = choose
        self._ledger = ledger
        self._feed = feed
        service.serve("llm", "models", self._models)
        service.serve("syscall", "cancel", self._cancel)
        service.serve("syscall", "list", self._list)
        service.serve("scheduler", "state", self._state)
        service.serve("scheduler", "drain", self._drain_worker)
        service.serve("scheduler", "policy", self._policy)

    async def _models(self, call: Call[Empty]) -> ModelsResult:
        served: dict[tuple[str, str], list[Worker]] = {}
        for worker in self._core.workers:
            if worker.ready:
                served.setdefault((worker.model, worker.id[0]), []).append(worker)
        return ModelsResult(
            models=[
                ModelInfo(
                    model=model,
                    pool=pool,
                    workers=len(workers),
                    max_input_tokens=max(worker.max_input_tokens for worker in workers),
                    max_total_tokens=max(worker.max_total_tokens for worker in workers),
                )
                for (model, pool), workers in sorted(served.items())
            ]
        )

    async def _cancel(self, call: Call[syscall.CancelCallRequest]) -> syscall.CancelResult:
        key = f"{call.headers.tenant}.{call.headers.agent}.{call.body.id}"
        if key not in self._core.calls:
            ended = self._ledger.end_of(key) is not None
            if not ended and not await self._ledger.arrival(key, SECOND_LOOK_S):
                raise SyscallUnknown("no call of this id is open", field="id")
        known = self._core.calls.get(key)
        if known is None:
            return syscall.CancelResult(id=call.body.id, state="ended")
        state = _public_state(known)
        self._feed(CancelAsked(key, call.body.keep))
        return syscall.CancelResult(id=call.body.id, state=state)

    async def _list(self, call: Call[syscall.ListRequest]) -> syscall.ListResult:
        now = time.time()
        calls = self._core.calls_of(call.headers.tenant, call.headers.agent)
        return syscall.ListResult(
            calls=[
                syscall.SyscallInfo(
                    id=known.id,
                    operation=f"llm.{known.operation}",
                    state=_public_state(known),
                    program=known.program,
                    priority=known.priority,
                    deadline_ms=int(known.deadline * 1000),
                    age_s=round(max(0.0, now - known.arrived), 3),
                    worker=None if known.worker is None else known.worker[1],
                    why=self._core.explaining.why(known, now),
                )
                for known in calls[: call.body.limit]
            ]
        )

    async def _state(self, call: Call[Empty]) -> management.StateResult:
        now = time.time()
        pools = self._core.pools
        queued, held = pools.queued(), len(self._core.chains)
        by_tenant = Counter[str]()
        for pool in pools:
            by_tenant.update(pool.queue.by_tenant)
        shown = sorted(pools, key=lambda pool: pool.name)
        return management.StateResult(
            policy=pools.configuration.default.policy,
            instance=self._instance,
            fence=self._fence(),
            queued=queued,
            held=held,
            running=len(self._core.calls) - queued - held,
            queued_by_tenant=dict(by_tenant),
            pools=[_pool_info(pool) for pool in shown],
            workers=[self._worker_info(worker, now) for worker in self._core.workers],
            tenants=[info for pool in shown for info in self._tenants(pool)],
            waiting=[self._waiting(waits, now) for waits in self._core.explaining.next_calls(_SHOWN)],
        )

    async def _drain_worker(self, call: Call[management.DrainRequest]) -> management.WorkerInfo:
        request = call.body
        worker = self._core.drain((request.pool, request.worker), drain=request.drain)
        if worker is None:
            raise ResourceNotFound(f"there is no worker {request.worker} in pool {request.pool}", field="worker")
        self._feed(Tick())
        return self._worker_info(worker, time.time())

    async def _policy(self, call: Call[management.PolicyRequest]) -> management.PolicyResult:
        pool = call.body.pool
        configuration = await self._choose(call.body)
        before = self._core.pools.configuration
        self._core.configure(configuration)
        self._feed(Tick())
        was, now = (each.default if pool is None else each.of(pool) for each in (before, configuration))
        return management.PolicyResult(
            pool=pool,
            before=was.policy,
            after=now.policy,
            tenant_weights=dict(now.weights),
            flood_share=now.flood_share,
            queue_per_tenant=now.limits.per_tenant,
            queue_total=now.limits.per_pool,
        )

    def _tenants(self, pool: Pool) -> list[management.TenantInfo]:
        queued, running, tokens = pool.queue.by_tenant, Counter[str](), Counter[str]()
        for call in self._core.calls.values():
            if call.state is CallState.RUNNING and call.pool == pool.name:
                running[call.tenant] += 1
                tokens[call.tenant] += call.reserved
        known = [pool.accounts.tenant(name) for name in {*queued, *running}]
        return [
            management.TenantInfo(
                tenant=tenant.name,
                pool=pool.name,
                weight=tenant.weight,
                counter=round(tenant.counter, 1),
                queued=queued.get(tenant.name, 0),
                running=running[tenant.name],
                running_tokens=tokens[tenant.name],
            )
            for tenant in sorted(known, key=lambda tenant: (tenant.counter, tenant.name))
        ]

    def _waiting(self, call: ModelCall, now: float) -> management.WaitingInfo:
        return management.WaitingInfo(
            id=call.id,
            tenant=call.tenant,
            agent=call.agent,
            program=call.program,
            pool=call.pool,
            priority=call.priority,
            waited_s=round(max(0.0, now - call.arrived), 3),
            deadline_in_s=round(call.deadline - now, 3) if call.has_deadline else None,
            needs_tokens=call.needs,
            why=self._core.explaining.why(call, now) or "",
        )

    def _worker_info(self, worker: Worker, now: float) -> management.WorkerInfo:
        pool, name = worker.id
        house = self._core.pools.get(pool).assignment.residency.houses.get(worker.id)
        return management.WorkerInfo(
            pool=pool,
            worker=name,
            model=worker.model,
            state="draining" if worker.draining else "ready" if worker.ready else "unavailable",
            running=worker.in_use,
            in_flight_limit=worker.limit,
            engine_id=worker.engine or None,
            seen_s_ago=round(max(0.0, now - worker.seen), 3),
            kv_tokens=worker.kv_tokens,
            kv_used=0 if house is None else house.used,
            residents=0 if house is None else len(house.residents),
        )


def _public_state(call: ModelCall) -> syscall.SyscallState:
    if call.state is CallState.HELD:
        return "waiting"
    return "queued" if call.state is CallState.QUEUED else "running"


def _pool_info(pool: Pool) -> management.PoolInfo:
    configuration = pool.configuration
    return management.PoolInfo(
        pool=pool.name,
        policy=configuration.policy,
        tenant_weights=dict(configuration.weights),
        flood_share=configuration.flood_share,
        queue_per_tenant=configuration.limits.per_tenant,
        queue_total=configuration.limits.per_pool,
        workers=len(pool.workers),
        queued=len(pool.queue),
        running=sum(worker.in_use for worker in pool.workers),
    )

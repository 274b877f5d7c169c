"""Everything that is compared, by name."""

from collections.abc import Callable
from functools import partial

from simulation.aios_core import AiosCore
from simulation.baselines.aios_fifo import AiosFifo
from simulation.baselines.aios_rr import AiosRoundRobin
from simulation.baselines.autellix_plas import AutellixPlas
from simulation.baselines.engine_fifo import EngineFifo
from simulation.baselines.llm_d_program_aware import LlmDProgramAware
from simulation.baselines.skip_join_mlfq import SkipJoinMlfq
from simulation.baselines.srpt_oracle import SrptOracle
from simulation.baselines.vtc import Vtc
from simulation.model import Fleet, Strategy

Make = Callable[[Fleet], Strategy]

BASELINES: dict[str, Make] = {
    "aios-fifo": AiosFifo,
    "aios-rr": AiosRoundRobin,
    "engine-fifo+rr": partial(EngineFifo, routing="round_robin"),
    "engine-fifo+least": partial(EngineFifo, routing="least_loaded"),
    "engine-fifo+affinity": partial(EngineFifo, routing="affinity"),
    "vtc": Vtc,
    "autellix-plas": AutellixPlas,
    "skip-join-mlfq": SkipJoinMlfq,
    "llm-d-las+affinity": LlmDProgramAware,
}
ORACLE = "srpt-oracle"
OURS = "aios"
STRATEGIES: dict[str, Make] = {**BASELINES, ORACLE: SrptOracle, OURS: AiosCore}
"""`aios` last."""

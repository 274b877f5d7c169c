"""What the scheduler decides: a deterministic state machine. Events in, with the time; commands out."""

from aios_scheduler.core.scheduler import SchedulerCore

__all__ = ["SchedulerCore"]

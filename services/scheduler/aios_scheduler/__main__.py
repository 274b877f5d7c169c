"""`python -m aios_scheduler`."""

from aios_kit.service import run
from aios_scheduler.service import SchedulerService
from aios_scheduler.settings import SchedulerSettings

if __name__ == "__main__":
    run(lambda: SchedulerService(SchedulerSettings()).service)

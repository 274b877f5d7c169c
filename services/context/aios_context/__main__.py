"""`python -m aios_context`."""

from aios_context.service import ContextService
from aios_context.settings import ContextSettings
from aios_kit.service import run

if __name__ == "__main__":
    run(lambda: ContextService(ContextSettings()).service)

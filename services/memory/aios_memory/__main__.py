"""`python -m aios_memory`."""

from aios_kit.service import run
from aios_kit.vectors.settings import VectorSettings
from aios_memory.service import MemoryService
from aios_memory.settings import MemorySettings

if __name__ == "__main__":
    run(lambda: MemoryService(MemorySettings(), VectorSettings()).service)

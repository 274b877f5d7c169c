"""The embedding worker as a module without arguments, for `running_process`."""

from aios_kit.service import run
from aios_llm.embedding.service import EmbedWorkerService
from aios_llm.embedding.settings import EmbedWorkerSettings

if __name__ == "__main__":
    run(lambda: EmbedWorkerService(EmbedWorkerSettings()).service)

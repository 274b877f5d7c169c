"""`python -m aios_llm [embed]`: a worker for model calls, or one for embeddings."""

import sys

from aios_kit.service import run
from aios_llm.embedding.service import EmbedWorkerService
from aios_llm.embedding.settings import EmbedWorkerSettings
from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings

if __name__ == "__main__":
    if sys.argv[1:] == ["embed"]:
        run(lambda: EmbedWorkerService(EmbedWorkerSettings()).service)
    else:
        run(lambda: WorkerService(WorkerSettings()).service)

"""`python -m aios_storage`."""

from aios_kit.service import run
from aios_storage.service import StorageService
from aios_storage.settings import StorageSettings

if __name__ == "__main__":
    run(lambda: StorageService(StorageSettings()).service)

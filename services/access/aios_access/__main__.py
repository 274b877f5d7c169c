"""`python -m aios_access`."""

from aios_access.service import AccessService
from aios_access.settings import AccessSettings
from aios_kit.service import run

if __name__ == "__main__":
    run(lambda: AccessService(AccessSettings()).service)

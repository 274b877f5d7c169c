"""`python -m aios_tool`."""

from aios_kit.service import run
from aios_tool.service import ToolService
from aios_tool.settings import ToolSettings

if __name__ == "__main__":
    run(lambda: ToolService(ToolSettings()).service)

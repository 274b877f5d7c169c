"""How far the engine is with its model: finding it, requantising, loading, ready; told to logs and to `/health`."""

import logging
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_log = logging.getLogger(__name__)

_LOG_EVERY_S: Final = 1.0


class Stage(StrEnum):
    """What is being done."""

    LOCATING = "locating the model"
    REQUANTISING = "bringing the model to Q8_0 (once)"
    LOADING = "loading the model"
    READY = "ready"


@dataclass(slots=True)
class Startup:
    """The stage and its finished share. One thread tells it, any reads it."""

    stage: Stage = Stage.LOCATING
    percent: int | None = None
    _logged_at: float = 0.0

    def begin(self, stage: Stage) -> None:
        """Enters a stage."""
        self.stage = stage
        self.percent = None
        self._logged_at = time.monotonic()
        _log.info("%s", stage)

    def advance(self, share: float) -> None:
        """Notes the finished share of the stage, 0 to 1."""
        self.percent = int(share * 100)
        if time.monotonic() - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = time.monotonic()
            _log.info("%s", self.line())

    def line(self) -> str:
        """Stage and share in words."""
        return str(self.stage) if self.percent is None else f"{self.stage}, {self.percent} %"

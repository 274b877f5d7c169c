"""Which files hold secrets, and the rule that an existing secret is never replaced.

Files are readable by their owner only (0600) in a folder only the owner enters (0700).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Owner:
    """The numeric user and group that the written files are given to, for services that run as someone else."""

    uid: int
    gid: int


class SecretFiles:
    """The folder of secrets of one installation."""

    def __init__(self, folder: Path, owner: Owner | None = None) -> None:
        self.folder = folder
        self._owner = owner
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._give(folder)

    def path(self, name: str) -> Path:
        """Where the secret of that name lies."""
        return self.folder / name

    def keep(self, name: str, make: Callable[[], str]) -> str:
        """The stored secret; made and stored where there is none yet. Safe against a second process doing the same."""
        path = self.path(name)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            text = path.read_text().strip()
            if text:
                return text
            # A process died between creating and writing: the secret was never used, so a fresh one may take its place.
            return self.replace(name, make())
        with os.fdopen(descriptor, "w") as file:
            text = make()
            file.write(text + "\n")
        self._give(path)
        return text

    def replace(self, name: str, text: str) -> str:
        """Writes a file that is derived from others, atomically."""
        path = self.path(name)
        write_private(path, text + "\n")
        self._give(path)
        return text

    def _give(self, path: Path) -> None:
        if self._owner is not None:
            os.chown(path, self._owner.uid, self._owner.gid)


def write_private(path: Path, text: str) -> None:
    """Replaces a file atomically; only its owner may read it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)

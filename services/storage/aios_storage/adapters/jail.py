"""A host folder that nothing leaves: each step is opened relative to the one before, and no link is ever followed.

All functions block; the shell runs them in a thread. They touch regular files and folders only: no devices, pipes or
sockets.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aios_proto.errors import AccessDenied, InvalidRequest, ResourceConflict, ResourceNotFound
from aios_proto.ids import new_syscall_id

_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class HostFile:
    """A regular file below the folder."""

    path: str
    size_bytes: int
    modified_ms: int


class Jail:
    """One mounted folder.

    Args:
        root: the folder; absolute, without links.
        writable: whether its files may be changed.
    """

    def __init__(self, root: Path, *, writable: bool) -> None:
        self._root = root
        self._writable = writable

    def read(self, path: str, offset: int, length: int) -> tuple[HostFile, bytes]:
        """Some bytes of a file.

        Raises:
            ResourceNotFound: there is no such file.
            AccessDenied: a link, or no regular file, stands on the way.
        """
        with self._folder_of(path) as (folder, name), _opened(name, _READ, folder) as descriptor:
            about = _regular(path, os.fstat(descriptor))
            return about, os.pread(descriptor, length, offset)

    def write(self, path: str, data: bytes) -> HostFile:
        """Replaces a file in one step, making folders on the way.

        Raises:
            AccessDenied: the mount is read-only, or a link stands on the way.
        """
        self._check_writable()
        with self._folder_of(path, make=True) as (folder, name):
            _check_target(path, name, folder)
            partial = f".{new_syscall_id()}.aios-partial"
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    about = _regular(path, os.fstat(file.fileno()))
                os.replace(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(partial, dir_fd=folder)
                raise
            os.fsync(folder)
            return about

    def delete(self, path: str) -> HostFile:
        """Removes a file.

        Raises:
            ResourceNotFound: there is no such file.
            AccessDenied: the mount is read-only, or a link stands on the way.
        """
        self._check_writable()
        with self._folder_of(path) as (folder, name), _host_errors(path):
            about = _regular(path, os.stat(name, dir_fd=folder, follow_symlinks=False))
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)
            return about

    def move(self, source: str, target: str, *, overwrite: bool) -> HostFile:
        """Renames a file in one step.

        Raises:
            ResourceNotFound: there is no such file.
            ResourceConflict: there is one at the target.
            AccessDenied: the mount is read-only, or a link stands on the way.
        """
        self._check_writable()
        with self._folder_of(source) as (old, old_name), self._folder_of(target, make=True) as (new, new_name):
            with _host_errors(source):
                about = _regular(target, os.stat(old_name, dir_fd=old, follow_symlinks=False))
            there = _check_target(target, new_name, new)
            if there and not overwrite:
                raise ResourceConflict("there is a file at the target", field="target")
            os.replace(old_name, new_name, src_dir_fd=old, dst_dir_fd=new)
            os.fsync(new)
            os.fsync(old)
            return about

    def walk(self, folder: str) -> Iterator[HostFile]:
        """All regular files at and below a folder, sorted by path; links and what is no file are passed over."""
        with self._folder(folder.split("/") if folder else []) as descriptor:
            yield from self._walk(descriptor, folder, _MAX_DEPTH)

    def _walk(self, descriptor: int, shown: str, depth: int) -> Iterator[HostFile]:
        with os.scandir(descriptor) as found:
            entries = sorted(found, key=lambda entry: entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""))
        for entry in entries:
            path = f"{shown}/{entry.name}" if shown else entry.name
            if entry.is_dir(follow_symlinks=False) and depth > 0:
                try:
                    inner = os.open(entry.name, _STEP, dir_fd=descriptor)
                except OSError:
                    continue  # it went away, or became a link, since we looked
                try:
                    yield from self._walk(inner, path, depth - 1)
                finally:
                    os.close(inner)
            elif entry.is_file(follow_symlinks=False) and not entry.name.endswith(".aios-partial"):
                about = entry.stat(follow_symlinks=False)
                yield HostFile(path, about.st_size, about.st_mtime_ns // 1_000_000)

    @contextmanager
    def _folder_of(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        *folders, name = path.split("/")
        with self._folder(folders, make=make) as descriptor:
            yield descriptor, name

    @contextmanager
    def _folder(self, segments: list[str], *, make: bool = False) -> Iterator[int]:
        shown = "/".join(segments)
        with _host_errors(shown):
            descriptor = os.open(self._root, _STEP)
        try:
            for segment in segments:
                if segment in ("", ".", "..") or "/" in segment or "\0" in segment:
                    raise InvalidRequest(f"{segment!r} is no legal segment of a path", field="path")
                with _host_errors(shown):
                    if make:
                        _make_folder(segment, descriptor)
                    inner = os.open(segment, _STEP, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def _check_writable(self) -> None:
        if not self._writable:
            raise AccessDenied("this mount is read-only", field="path")


def _make_folder(name: str, inside: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=inside)


def _check_target(path: str, name: str, folder: int) -> bool:
    """Whether a file is there already; anything else that is there is refused."""
    if name in ("", ".", "..") or "\0" in name:
        raise InvalidRequest(f"{name!r} is no legal segment of a path", field="path")
    try:
        _regular(path, os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False
    return True


def _regular(path: str, about: os.stat_result) -> HostFile:
    if not stat.S_ISREG(about.st_mode):
        raise AccessDenied("this is no regular file", field="path")
    return HostFile(path, about.st_size, about.st_mtime_ns // 1_000_000)


@contextmanager
def _opened(name: str, flags: int, folder: int) -> Iterator[int]:
    if name in ("", ".", "..") or "\0" in name:
        raise InvalidRequest(f"{name!r} is no legal segment of a path", field="path")
    with _host_errors(name):
        descriptor = os.open(name, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _host_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise AccessDenied("a link stands on the way, and links are not followed", field="path") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
            # With O_NOFOLLOW and O_DIRECTORY a link is reported as "not a directory".
            raise ResourceNotFound(f"there is no file {path!r} in the mount", field="path") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise AccessDenied("the host does not let the storage manager do this", field="path") from error
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidRequest("the host allows no name of that length", field="path") from error
        raise

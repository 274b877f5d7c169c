"""What an operation makes of a file: which version comes next, what a move leaves behind, what is refused.

Nothing is ever lost but by a purge: a deletion is a version, a rollback is a version, and a move onto a path that has a
history continues that history.
"""

from dataclasses import dataclass, replace

from aios_proto.errors import ResourceConflict, ResourceNotFound
from aios_storage.core.records import Content, Head, Version


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move makes of both paths.

    Attributes:
        target: the head at the new path.
        source: the head left at the old path; None where the whole history has moved along.
    """

    target: Head
    source: Head | None


def written(
    head: Head | None, path: str, file: str, content: Content, author: str, now_ms: int, expect_version: int | None
) -> Head:
    """A file after a write.

    Args:
        head: the file as it is; None where there is none.
        path: in the owner's tree.
        file: names the history where it begins now.
        content: what was written.
        author: who writes.
        now_ms: Unix time.
        expect_version: the newest version the writer knows, 0 for none; None for any.

    Raises:
        ResourceConflict: another version is the newest.
    """
    _check_expected(head, expect_version)
    version = Version(1 if head is None else head.newest.number + 1, content, now_ms, author)
    return Head(path, file, version) if head is None else head.after(version)


def deleted(head: Head | None, author: str, now_ms: int, expect_version: int | None) -> Head:
    """A file after its deletion.

    Raises:
        ResourceNotFound: there is none.
        ResourceConflict: another version is the newest.
    """
    alive = present(head)
    _check_expected(alive, expect_version)
    return alive.after(Version(alive.newest.number + 1, None, now_ms, author))


def rolled_back(head: Head | None, old: Version | None, author: str, now_ms: int) -> Head:
    """A file after an older version was made its newest.

    Raises:
        ResourceNotFound: there is no such file or version, or that version says that the file is gone.
    """
    if head is None:
        raise ResourceNotFound("there is no such file", field="path")
    if old is None or old.content is None:
        raise ResourceNotFound("there is no content of that version", field="version")
    return head.after(Version(head.newest.number + 1, old.content, now_ms, author))


def moved(source: Head | None, target: Head | None, path: str, author: str, now_ms: int, *, overwrite: bool) -> Moved:
    """Both paths after a move.

    Args:
        source: the file that moves.
        target: what is at the new path, or was.
        path: the new path, in its owner's tree.
        author: who moves.
        now_ms: Unix time.
        overwrite: whether a file at the new path may be covered.

    Raises:
        ResourceNotFound: there is no source.
        ResourceConflict: there is a file at the new path already.
    """
    alive = present(source, "source")
    if target is None:
        return Moved(replace(alive, path=path, made=None), None)
    if target.alive and not overwrite:
        raise ResourceConflict("there is a file at the target", field="target")
    covering = Version(target.newest.number + 1, alive.newest.content, now_ms, author)
    gone = Version(alive.newest.number + 1, None, now_ms, author)
    return Moved(target.after(covering), alive.after(gone))


def present(head: Head | None, field: str = "path") -> Head:
    """The file, which must be there.

    Raises:
        ResourceNotFound: it is not.
    """
    if head is None or not head.alive:
        raise ResourceNotFound("there is no such file", field=field)
    return head


def _check_expected(head: Head | None, expected: int | None) -> None:
    newest = head.newest.number if head is not None and head.alive else 0
    if expected is not None and expected != newest:
        raise ResourceConflict(f"version {newest} is the newest, not {expected}", field="expect_version")

"""Which file a path names, and which paths name none: a path is refused rather than repaired.

| path | names |
|---|---|
| `notes/plan.md` | a file of the caller |
| `~bob/notes/plan.md` | a file of the agent bob of the same tenant |
| `@docs/readme.md` | a file below the caller's mount `docs` |
"""

import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote

from aios_proto.errors import InvalidRequest
from aios_proto.names import is_name

MAX_BYTES = 1024
MAX_SEGMENT_BYTES = 255
# Directions, joiners and invisible characters make two names look like one; line separators break every listing.
_DECEPTIVE = frozenset("\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2060\ufeff\u00ad\u061c") | frozenset(
    chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
)
_FORBIDDEN_CATEGORIES = ("Cc", "Cs", "Co", "Cn")
_MAX_UNQUOTES = 3


@dataclass(frozen=True, slots=True)
class Home:
    """A file, or a folder, in an agent's own tree; the path is empty for the tree's root."""

    owner: str
    path: str

    def shown_to(self, agent: str) -> str:
        """The path as this agent writes it."""
        return self.path if agent == self.owner else f"~{self.owner}/{self.path}"


@dataclass(frozen=True, slots=True)
class Mounted:
    """A file, or a folder, below a mount; the path is empty for the mount's root."""

    mount: str
    path: str

    @property
    def shown(self) -> str:
        """The path as agents write it."""
        return f"@{self.mount}/{self.path}"


Place = Home | Mounted


def file_place(agent: str, path: str, field: str = "path") -> Place:
    """What a path of `agent` names.

    Args:
        agent: who says it.
        path: as it came.
        field: of the request, for the error.

    Raises:
        InvalidRequest: it is no legal path, or names a root.
    """
    place = _place(agent, path, field)
    if not place.path:
        raise InvalidRequest(f"{field}: {path!r} names no file", field=field)
    return place


def folder_place(agent: str, prefix: str, field: str = "prefix") -> Place:
    """What a prefix of `agent` names; a trailing `/` is the same as none, and empty is the agent's own root.

    Raises:
        InvalidRequest: it is no legal path.
    """
    return _place(agent, prefix.removesuffix("/"), field) if prefix else Home(agent, "")


def is_below(path: str, folder: str) -> bool:
    """Whether a path is the folder's, or lies below it; everything lies below the empty one."""
    return not folder or path == folder or path.startswith(f"{folder}/")


def _place(agent: str, path: str, field: str) -> Place:
    if len(path.encode(errors="surrogatepass")) > MAX_BYTES:
        raise InvalidRequest(f"{field} has more than {MAX_BYTES} bytes", field=field)
    segments = [_checked(segment, field) for segment in unicodedata.normalize("NFC", path).split("/")]
    first, rest = segments[0], "/".join(segments[1:])
    if first[0] in "~@":
        name = first[1:]
        if not is_name(name):
            raise InvalidRequest(f"{field}: {first!r} names neither an agent nor a mount", field=field)
        return Home(name, rest) if first[0] == "~" else Mounted(name, rest)
    return Home(agent, "/".join(segments))


def _checked(segment: str, field: str) -> str:
    plain = segment
    for _ in range(_MAX_UNQUOTES):
        _refuse_hostile(plain, segment, field)
        further = unquote(plain, errors="replace")
        if further == plain:
            break
        plain = further
    else:
        _refuse_hostile(plain, segment, field)
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        raise InvalidRequest(f"{field}: a segment has more than {MAX_SEGMENT_BYTES} bytes", field=field)
    return segment


def _refuse_hostile(text: str, segment: str, field: str) -> None:
    # What would become a separator or a dot segment elsewhere (decoded once more, or in compatibility form) was
    # written by somebody who wants to get out.
    folded = unicodedata.normalize("NFKC", text)
    if not text or text in (".", "..") or folded.strip(" ") in ("", ".", "..") or "/" in folded or "\\" in folded:
        raise InvalidRequest(f"{field}: {segment!r} is no legal segment of a path", field=field)
    if any(one in _DECEPTIVE or unicodedata.category(one) in _FORBIDDEN_CATEGORIES for one in text):
        raise InvalidRequest(f"{field}: {segment!r} holds a character that no path may hold", field=field)
    if text != text.strip() or "\ufffd" in text:
        raise InvalidRequest(f"{field}: {segment!r} begins or ends with a blank, or is no text", field=field)

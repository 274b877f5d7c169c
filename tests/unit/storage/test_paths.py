"""No name leads out of an agent's own tree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile_paths import HOSTILE_PATHS

from aios_proto.errors import InvalidRequest
from aios_storage.core.paths import Home, Mounted, file_place, folder_place, is_below


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(set(HOSTILE_PATHS)) >= 100


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_a_hostile_path_names_nothing(path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        file_place("alice", path)
    assert refused.value.field == "path"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("a", Home("alice", "a")),
        ("notes/plan 2.md", Home("alice", "notes/plan 2.md")),
        ("~bob/a", Home("bob", "a")),
        ("~alice/a", Home("alice", "a")),
        ("a/~bob", Home("alice", "a/~bob")),
        ("@docs/a/b", Mounted("docs", "a/b")),
        ("...", Home("alice", "...")),
        (".hidden", Home("alice", ".hidden")),
        ("100%", Home("alice", "100%")),
        ("Grüße/日本.txt", Home("alice", "Grüße/日本.txt")),
        ("cafe\u0301", Home("alice", "café")),
    ],
)
def test_an_honest_path_names_its_file(path: str, place: Home | Mounted) -> None:
    assert file_place("alice", path) == place


@given(st.text(max_size=40))
def test_whatever_is_accepted_stays_inside(path: str) -> None:
    try:
        place = file_place("alice", path)
    except InvalidRequest:
        return
    for segment in place.path.split("/"):
        assert segment not in ("", ".", "..")
        assert "\0" not in segment
        assert "\\" not in segment
    if isinstance(place, Home):
        assert place.owner == "alice" or path.startswith("~")


@pytest.mark.parametrize("prefix", ["", "a", "a/"])
def test_a_folder_may_end_with_a_slash_or_be_the_root(prefix: str) -> None:
    assert folder_place("alice", prefix) == Home("alice", prefix.rstrip("/"))


def test_a_folder_holds_what_lies_below_it_and_not_what_begins_alike() -> None:
    assert is_below("a/b", "a")
    assert is_below("a", "a")
    assert is_below("anything", "")
    assert not is_below("ab", "a")

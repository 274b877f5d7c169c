"""What the file of first agents may hold."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from aios_access.adapters.kv_agent_store import read_bootstrap
from aios_access.directory import Identity

ENTRY = {"tenant": "acme", "agent": "olga", "group": "operator", "secret_sha256": "ab" * 32}


def test_agents_are_read(tmp_path: Path) -> None:
    path = tmp_path / "agents.json"
    path.write_text(json.dumps([ENTRY]))
    (read,) = read_bootstrap(path)
    assert replace(read, origin="") == Identity("acme", "olga", "operator", "ab" * 32, 0)
    path.write_text(json.dumps([{**ENTRY, "group": "guest"}]))
    assert read_bootstrap(path)[0].origin not in ("", read.origin)


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "{}",
        json.dumps([{**ENTRY, "tenant": "a.b"}]),
        json.dumps([{**ENTRY, "agent": ">"}]),
        json.dumps([{**ENTRY, "secret_sha256": "plain text secret"}]),
        json.dumps([{**ENTRY, "secret": "x"}]),
        json.dumps([{key: value for key, value in ENTRY.items() if key != "group"}]),
    ],
)
def test_a_file_with_a_fault_stops_the_start_instead_of_letting_somebody_in(tmp_path: Path, content: str) -> None:
    path = tmp_path / "agents.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"validation error|Invalid JSON"):
        read_bootstrap(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bootstrap(tmp_path / "none.json")

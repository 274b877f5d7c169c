"""The `aios` command: where its commands come from and how it fails."""

from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from aios._cli import build_group, describe
from aios_proto.errors import DeadlineExceeded, QueueFull

STACK = EntryPoint("stack", "aios_stack.cli:commands", "aios.commands")


@pytest.fixture
def cli() -> click.Group:
    return build_group([STACK])


def test_all_commands_of_the_stack_are_there(cli: click.Group) -> None:
    assert set(cli.commands) == {
        *("up", "down", "ps", "logs", "run", "top", "trace", "provision", "backup", "restore"),
        *("agent", "tenant", "policy", "quota", "pool", "approvals", "audit"),
    }
    shown = CliRunner().invoke(cli, ["--help"])
    assert shown.exit_code == 0
    assert "Show the processes of the stack." in shown.output


def test_a_broken_package_does_not_take_the_other_commands_away(capsys: pytest.CaptureFixture[str]) -> None:
    cli = build_group([EntryPoint("bad", "no_such_package:commands", "aios.commands"), STACK])
    assert "up" in cli.commands
    assert "'bad'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trace", "--last"], "resource.not_found: there is no span store"),
        (["trace"], "request.invalid: give the id of a call or of a trace, or --last"),
        (["logs", "nobody"], "resource.not_found: no log of 'nobody'"),
        (["run", "SCRIPT"], "resource.not_found: no stack is running"),
        (["run", "--as", "a b", "SCRIPT"], "'a b' is not a name"),
        (["up", "--workers", "0"], "request.invalid: Input should be greater than or equal to 1 (field workers)"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    cli: click.Group, tmp_path: Path, arguments: list[str], said: str
) -> None:
    script = tmp_path / "agent.py"
    script.touch()
    arguments = [argument.replace("SCRIPT", str(script)) for argument in arguments]
    result = CliRunner().invoke(cli, [arguments[0], "--data", str(tmp_path / "data"), *arguments[1:]])
    assert result.exit_code == 1
    assert result.stderr.startswith("aios: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_commands_that_need_no_stack_say_so_without_failing(cli: click.Group, tmp_path: Path) -> None:
    for command in ("ps", "down"):
        result = CliRunner().invoke(cli, [command, "--data", str(tmp_path)])
        assert (result.exit_code, "no stack has run" in result.output) == (0, True)


def test_an_error_says_what_to_do_next() -> None:
    assert describe(QueueFull("the queue is full", retry_after_s=2)) == (
        "queue.full: the queue is full; try again in 2 s"
    )
    late = DeadlineExceeded("too late", syscall_id="01H", trace_id="ab" * 16)
    assert "(call 01H)" in describe(late)
    assert f"aios trace {'ab' * 16}" in describe(late)


def test_provision_writes_and_lists_its_files(cli: click.Group, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["provision", "--out", str(tmp_path), "--nodes", "n1, n2"])
    assert result.exit_code == 0
    paths = [Path(line) for line in result.output.splitlines()]
    assert [path.name for path in paths] == ["n1.conf", "n2.conf", "operator.token"]
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("owner", ["nobody", "1:x", ":"])
def test_an_owner_that_is_no_number_is_refused(cli: click.Group, tmp_path: Path, owner: str) -> None:
    result = CliRunner().invoke(cli, ["provision", "--out", str(tmp_path), "--owner", owner])
    assert result.exit_code == 1
    assert "owner" in result.stderr

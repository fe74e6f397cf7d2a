"""What holds for every command: JSON, help, exit codes, Ctrl-C, a pipe that nobody reads, and completion."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ironcage_http.cli import PLACES, main
from ironcage_http.commands.shell import MEANINGS, Exit
from scripts.command_reference import leaves, usage
from tests.support.desk import Desk
from tests.support.processes import ENVIRONMENT
from tests.support.servers import MAIN

LEAVES = list(leaves())


@pytest.mark.parametrize(("words", "command"), LEAVES, ids=[" ".join(words) for words, _ in LEAVES])
def test_every_command_takes_json_and_says_what_it_and_its_options_do(
    words: tuple[str, ...], command: click.Command
) -> None:
    """A sentence each; only a filter or a field that is named after what it is goes without."""
    options = [each for each in command.params if isinstance(each, click.Option)]

    assert "--json" in {name for each in options for name in each.opts}
    assert (command.help or "").strip().endswith("."), usage(words, command)
    assert all(each.help is None or each.help.endswith(".") for each in options)


def test_every_exit_code_has_a_meaning() -> None:
    """The reference lists all of them."""
    assert set(MEANINGS) == set(Exit)


def test_every_place_leads_to_a_command_of_that_name(desk: Desk) -> None:
    """Help lists them all, and nothing fails to be imported."""
    shown = desk.run("--help")

    assert shown.code == 0
    assert [name for name in PLACES if f"  {name} " not in shown.out] == []


@pytest.mark.parametrize("arguments", [["nothing"], ["whoami", "--nothing"], ["whoami", "too much"], ["api", "GET"]])
def test_wrong_usage_is_exit_2_and_json_if_asked(desk: Desk, arguments: list[str]) -> None:
    """With `--json` too, standard output stays empty."""
    shown, told = desk.run(*arguments), desk.run(*arguments, "--json")

    assert (shown.code, told.code, shown.out + told.out) == (2, 2, "")
    assert json.loads(told.err)["code"] == "USAGE"


def _start(*arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        env={**ENVIRONMENT, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_while_a_server_is_waited_for_says_what_to_do(tmp_path: Path) -> None:
    """Exit 130, one sentence, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        child = _start("api", "GET", "/agents", "--url", url, env={"IRON_CONFIG_DIR": str(tmp_path)})
        connection, _ = silent.accept()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
        connection.close()

    assert (child.returncode, out, "Traceback" in err) == (130, "", False), err
    assert "look before you ask again" in err


def test_a_pipe_that_nobody_reads_is_no_failure(admin_desk: Desk) -> None:
    """As in `ironcage api GET /agents | head -0`."""
    env = {name: value for name, value in admin_desk.env.items() if value is not None}
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", MAIN, "api", "GET", "/agents"],
        env={**ENVIRONMENT, **env},
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)

    assert (done.returncode, done.stderr) == (0, b"")


def test_a_shell_completes_commands_and_options() -> None:
    """With what the script of `ironcage completion bash` asks for."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", MAIN],
        env={
            **ENVIRONMENT,
            "_IRONCAGE_COMPLETE": "bash_complete",
            "COMP_WORDS": "ironcage whoami --j",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "plain,--json\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_names_the_program(desk: Desk, shell: str) -> None:
    """It is for the name that is installed."""
    shown = desk.run("completion", shell)

    assert (shown.code, "_IRONCAGE_COMPLETE" in shown.out, "\n" in shown.out.strip()) == (0, True, True)
    assert desk.ask("completion", shell)["script"] in shown.out


def test_a_command_imports_no_other_command() -> None:
    """Nor the server, nor the database, to ask who one is."""
    program = "import sys, ironcage_http.cli as c; c.main.get_command(None, 'whoami'); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)  # noqa: S603

    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("ironcage_http.commands.")} == {
        f"ironcage_http.commands.{each}" for each in ("shell", "screen", "control_plane", "login", "secret_files")
    }
    assert loaded.isdisjoint({"litestar", "uvicorn", "sqlite3", "ironcage_http.app"})


def test_the_program_is_a_group(desk: Desk) -> None:
    """Called alone it shows what there is."""
    shown = desk.run()

    assert isinstance(main, click.Group)
    assert "Commands:" in shown.out + shown.err

"""What holds for every command: JSON, help, exit codes, Ctrl-C, a pipe that nobody reads, and completion."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

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
        f"ironcage_http.commands.{each}"
        for each in ("shell", "screen", "plain_text", "control_plane", "login", "secret_files")
    }
    assert loaded.isdisjoint({"litestar", "uvicorn", "sqlite3", "ironcage_http.app"})


def test_the_program_is_a_group(desk: Desk) -> None:
    """Called alone it shows what there is."""
    shown = desk.run()

    assert isinstance(main, click.Group)
    assert "Commands:" in shown.out + shown.err


def test_a_help_that_nobody_reads_and_a_table_are_no_failure_either(admin_desk: Desk) -> None:
    """Click and rich have endings of their own for a pipe that is closed."""
    env = {name: value for name, value in admin_desk.env.items() if value is not None}
    reader, writer = os.pipe()
    os.close(reader)

    ended = [_run(line, env=env, stdout=writer) for line in ("--help", "agents list")]
    os.close(writer)

    assert [(done.returncode, done.stderr) for done in ended] == [(0, ""), (0, "")]


def _run(line: str, *, env: dict[str, str] | None = None, **streams: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401 - of subprocess
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", MAIN, *line.split()],
        env={**ENVIRONMENT, **(env or {})},
        stdin=subprocess.DEVNULL,
        check=False,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


@pytest.mark.parametrize("line", ["--version", "--help", "completion bash", "completion bash --json"])
def test_an_output_that_cannot_be_written_is_exit_3_and_a_sentence(line: str) -> None:
    """A full disk under `> file` must not look like success, nor like a check that found something."""
    with Path("/dev/full").open("w") as full:
        done = _run(line, stdout=full)

    assert (done.returncode, "No space left" in done.stderr, "Traceback" in done.stderr) == (3, True, False)


def test_a_message_that_cannot_be_written_leaves_the_exit_code() -> None:
    """It is all that is left to tell by."""
    with Path("/dev/full").open("w") as full:
        done = _run("nothing", stderr=full)

    assert (done.returncode, done.stdout) == (2, "")


def test_a_closed_stream_gets_nothing_and_no_other_gets_its_share(admin_desk: Desk) -> None:
    """A failure does not come out among the answers, and without an input nobody is asked."""
    env = {**ENVIRONMENT, **{name: value for name, value in admin_desk.env.items() if value is not None}}
    program = shlex.join([sys.executable, "-c", MAIN])

    told = [
        subprocess.run(["/bin/sh", "-c", f"{program} {line}"], env=env, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
        for line in ("nothing 2>&-", "agents delete x <&-", "--version >&-")
    ]

    assert [(each.returncode, each.stdout, "Traceback" in each.stderr) for each in told] == [
        (2, "", False),
        (2, "", False),
        (0, "", False),
    ]


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_terminal_that_knows_ascii_alone_is_shown_what_it_can_show(admin_desk: Desk) -> None:
    """JSON is UTF-8 all the same, and no name ends a command."""
    admin_desk.ask("agents", "create", "é🤖", "--budget", "1")
    env = {**{name: value for name, value in admin_desk.env.items() if value is not None}, **ASCII}

    table, document = _run("agents list", env=env), _run("agents list --json", env={**env, "PYTHONIOENCODING": "ascii"})

    assert (table.returncode, "\\xe9\\U0001f916" in table.stdout) == (0, True), table.stderr
    assert [each["name"] for each in json.loads(document.stdout)["data"]] == ["é🤖"]


def test_an_argument_that_is_not_utf_8_is_wrong_usage(admin_desk: Desk) -> None:
    """As a shell with another encoding sends it."""
    shown = admin_desk.run("agents", "show", "\udcff\udcfe")

    assert (shown.code, "not UTF-8" in shown.err, shown.out) == (2, True, "")


@pytest.mark.parametrize(
    ("line", "asked"),
    [("login http://127.0.0.1:1", "username"), ("login http://127.0.0.1:1 -u admin", "password")],
)
def test_an_end_of_the_input_at_a_question_says_what_to_give(tmp_path: Path, line: str, asked: str) -> None:
    """Nothing was asked of a server yet, so nothing may have been carried out; Python's own warning is no help."""
    done = _run(line, env={"IRON_CONFIG_DIR": str(tmp_path)})

    assert (done.returncode, done.stdout) == (2, "")
    assert f"the {asked} is needed: type it, or give --{asked}" in done.stderr
    assert "GetPassWarning" not in done.stderr
    assert "may have been carried out" not in done.stderr

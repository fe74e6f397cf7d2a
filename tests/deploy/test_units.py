"""The units of systemd: they are sound, their settings are taken, and the backup is one."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ironcage_core.services.verify import verify
from ironcage_http.server import GRACE_S
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.deployment import DEPLOY, OTHERS, SECRETS, accepted, in_shell, unit
from tests.support.processes import ROOT

PROGRAM = "/opt/ironcage/bin/ironcage"
UNITS = sorted(path.name for path in DEPLOY.iterdir() if path.suffix in {".service", ".timer"})
SERVICES = [name for name in UNITS if name.endswith(".service")]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_has_nothing_to_say(tmp_path: Path) -> None:
    """No unknown key, no bad value, no command that is none."""
    for name in UNITS:
        (tmp_path / name).write_text((DEPLOY / name).read_text().replace(PROGRAM, sys.executable))

    done = subprocess.run(  # noqa: S603 - our own files
        ["systemd-analyze", "verify", *(tmp_path / name for name in UNITS)],  # noqa: S607 - whichever there is
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def environment(name: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in unit(name)["Environment"])


def test_the_service_s_settings_are_known_and_need_the_secrets_alone(tmp_path: Path) -> None:
    """Production, for the proxy of this machine, on a database in the folder that systemd makes."""
    service = unit("ironcage.service")
    settings = accepted({**environment("ironcage.service"), **SECRETS}, tmp_path)

    assert (settings.mode, settings.host) == ("production", "127.0.0.1")
    assert [str(each) for each in settings.trusted_proxies] == ["127.0.0.1/32"]
    assert settings.database == Path("/var/lib") / service["StateDirectory"][0] / "iron.db"
    assert set(environment("ironcage-backup.service")) <= OTHERS


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_little_beside_its_work(name: str) -> None:
    """No root, no capability, no way to more, a file system that it cannot write to but for its own folders."""
    service = {key: values[-1] for key, values in unit(name).items()}

    assert (service["User"], service["Group"]) == ("ironcage", "ironcage")
    assert service["NoNewPrivileges"] == "true"
    assert service["LimitCORE"] == "0"
    assert (service["CapabilityBoundingSet"], service["AmbientCapabilities"]) == ("", "")
    assert service["ProtectSystem"] == "strict"
    assert service["ProtectHome"] == service["PrivateTmp"] == service["PrivateDevices"] == "true"
    assert (service["UMask"], service["StateDirectoryMode"]) == ("0077", "0700")
    assert unit(name)["SystemCallFilter"][0] == "@system-service"


def test_the_service_comes_back_by_itself_and_is_given_time_to_end() -> None:
    """More than the server gives to what is under way; the secrets come from a file."""
    service = {key: values[-1] for key, values in unit("ironcage.service").items()}

    assert service["ExecStart"] == f"{PROGRAM} serve"
    assert (service["Restart"], service["KillSignal"]) == ("on-failure", "SIGTERM")
    assert int(service["TimeoutStopSec"].removesuffix("s")) >= 3 * GRACE_S
    assert service["EnvironmentFile"] == "/etc/ironcage/ironcage.env"


def backed_up(folder: Path, key: str) -> subprocess.CompletedProcess[str]:
    """Run the commands of the backup's unit, one after the other, with its folders inside `folder`."""
    written = " && ".join(_plain(each) for each in unit("ironcage-backup.service")[key])
    command = written.replace("%%", "%").replace("/var/lib", str(folder))
    program = f"{shlex.quote(sys.executable)} -c 'from ironcage_http.cli import main; main()'"
    environ = {"PATH": os.defpath, "PYTHONPATH": str(ROOT / "src")}
    return in_shell(command.replace(PROGRAM, program), **environ)


def _plain(command: str) -> str:
    return command.removeprefix("/bin/sh -c '").removesuffix("'") if command.startswith("/bin/sh") else command


def test_the_backup_is_one_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    """A whole database whose books add up, in the folder that systemd makes."""
    (tmp_path / "ironcage").mkdir()
    kept = tmp_path / "ironcage-backups"
    kept.mkdir()
    with SqliteStore(tmp_path / "ironcage" / "iron.db"):
        done = backed_up(tmp_path, "ExecStart")

    assert done.returncode == 0, done.stderr
    (copy,) = kept.glob("*.db")
    assert time.strptime(copy.name, "iron-%Y%m%dT%H%M%SZ.db")
    with SqliteStore(copy, must_exist=True) as store:
        assert store.read(verify).holds
    assert unit("ironcage-backup.service")["StateDirectory"] == ["ironcage ironcage-backups"]


def test_no_percent_sign_stands_alone() -> None:
    """To systemd `%S` is a folder, and nothing of a time."""
    for name in UNITS:
        commands = [line for key, lines in unit(name).items() if key.startswith("Exec") for line in lines]
        assert "%" not in "".join(commands).replace("%%", ""), name


def test_old_backups_go_and_nothing_else_does(tmp_path: Path) -> None:
    """Those of thirty days stay, and a draft that may still grow; what a killed backup left days ago goes."""
    kept = tmp_path / "ironcage-backups"
    kept.mkdir()
    for name, days in (
        ("iron-new.db", 29), ("iron-old.db", 32), ("iron-old.db.secrets", 32), ("other.db", 32),
        ("iron-new.db.draft-01", 0.1), ("iron-old.db.draft-02", 3),
    ):  # fmt: skip
        (kept / name).touch()
        os.utime(kept / name, (time.time() - days * 86_400,) * 2)

    done = backed_up(tmp_path, "ExecStartPost")

    assert (done.returncode, done.stderr) == (0, "")
    left = {"iron-new.db", "iron-old.db.secrets", "other.db", "iron-new.db.draft-01"}
    assert {file.name for file in kept.iterdir()} == left


def test_the_timer_starts_the_backup() -> None:
    """By its name, and again after a time in which it could not."""
    timer = unit("ironcage-backup.timer")

    assert "ironcage-backup.service" in UNITS
    assert "Unit" not in timer
    assert timer["Persistent"] == ["true"]
    assert timer["WantedBy"] == ["timers.target"]

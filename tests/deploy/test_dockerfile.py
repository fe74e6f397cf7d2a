"""The Dockerfile: what it copies is there, what it sets is known, what it runs works, and nothing in it is secret."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.deployment import (
    KNOWN,
    OTHERS,
    SECRETS,
    accepted,
    dockerfile,
    health_command,
    image,
    image_environment,
    in_shell,
    of_kind,
)
from tests.support.processes import ROOT
from tests.support.servers import ServerProcess

BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="hadolint is not installed")
def test_hadolint_has_nothing_to_say() -> None:
    """Of the rules of a good Dockerfile none is broken, and none is switched off."""
    done = subprocess.run(  # noqa: S603 - a tool of ours
        [BIN / "hadolint", "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in (ROOT / "Dockerfile").read_text()


def test_the_base_image_is_one_version_of_no_host() -> None:
    """A tag that means the same tomorrow; where images come from is the operator's to say."""
    steps = dockerfile()
    (tag,) = [rest.partition("=")[2] for rest in of_kind(steps, "ARG") if rest.startswith("PYTHON=")]

    assert re.fullmatch(r"3\.\d+\.\d+-slim-[a-z]+", tag)
    assert [rest.split(" ")[0] for rest in of_kind(steps, "FROM")] == ["python:${PYTHON}"] * 2


def test_the_image_runs_as_nobody_special_and_writes_to_its_volume_only() -> None:
    """User and group 1000, who own /data and nothing else."""
    steps = image()
    (made,) = of_kind(steps, "RUN")

    assert of_kind(steps, "USER") == ["1000:1000"]
    assert of_kind(steps, "VOLUME") == ['["/data"]']
    assert "--gid 1000" in made
    assert "--uid 1000" in made
    assert "--owner 1000 --group 1000 --mode 0700 /data" in made
    assert "--chown" not in "".join(of_kind(steps, "COPY"))


def test_the_server_is_the_process_that_is_told_to_stop() -> None:
    """No shell stands between it and the signal."""
    steps = {step.name: step for step in image()}

    assert steps["ENTRYPOINT"].words == ["ironcage"]
    assert steps["CMD"].words == ["serve"]
    assert steps["STOPSIGNAL"].rest == "SIGTERM"


def test_the_image_s_settings_are_known_and_need_the_secrets_alone(tmp_path: Path) -> None:
    """Production, on the volume, for whoever reaches the container."""
    environ = image_environment()

    assert set(environ) - KNOWN == OTHERS
    settings = accepted({**environ, **SECRETS}, tmp_path)

    assert (settings.mode, settings.host, settings.port) == ("production", "0.0.0.0", 8080)  # noqa: S104 - as it says
    assert settings.database == Path("/data/iron.db")
    assert of_kind(image(), "EXPOSE") == [str(settings.port)]
    assert environ["DATABASE_URL"].startswith("sqlite:///" + of_kind(image(), "WORKDIR")[0])


def test_what_is_told_of_the_build_is_taken(tmp_path: Path) -> None:
    """Both build arguments, as the comment on top makes them."""
    build = {"COMMIT": "0123456789abcdef0123456789abcdef01234567", "BUILT_AT": "2026-01-02T03:04:05Z"}
    (variables,) = of_kind(image(), "ENV")

    told = {name: build[argument] for name, argument in re.findall(r'(IRON_BUILD_\w+)="\$\{(\w+)\}"', variables)}
    settings = accepted({**image_environment(), **SECRETS, **told}, tmp_path)

    assert settings.build_commit == build["COMMIT"]
    assert settings.build_time is not None
    assert {rest.partition("=")[0] for rest in of_kind(image(), "ARG")} == set(build)


def test_no_secret_is_in_a_layer() -> None:
    """Neither as a variable nor as an argument of the build, and no file is copied that may hold one."""
    named = {
        name for kind in ("ENV", "ARG") for rest in of_kind(dockerfile(), kind) for name in re.findall(r"\w+", rest)
    }

    assert named & {*SECRETS, "IRON_ADMIN_PASSWORD", "IRON_METRICS_TOKEN", "JWT_SECRET_PREVIOUS"} == set()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied()


def copied() -> set[str]:
    """What the build takes from this repository."""
    copies = [rest.split() for rest in of_kind(dockerfile(), "COPY") if not rest.startswith("--from")]
    return {source.removeprefix("./") for *sources, _ in copies for source in sources}


def test_the_build_has_everything_that_the_wheel_needs() -> None:
    """The packages with their data, the readme, the licence, the pins; and all of them exist."""
    project = PROJECT["project"]
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    installs = of_kind(dockerfile(), "RUN")[1]
    (extra,) = re.findall(r"'\.\[(\w+)\]'", installs)
    data = [file for file in (ROOT / "src").rglob("*") if file.is_file() and file.suffix not in {".py", ".pyc"}]

    assert {"pyproject.toml", project["readme"], *project["license-files"], "constraints.txt", "src"} == copied()
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    assert sorted(packages) == sorted(f"src/{file.parent.name}" for file in (ROOT / "src").glob("*/__init__.py"))
    assert ROOT / "src/ironcage_storage/data/prices.json" in data
    assert [file for file in data if not any(file.is_relative_to(ROOT / package) for package in packages)] == []
    assert "--constraint constraints.txt" in installs
    assert extra in project["optional-dependencies"]


def test_what_is_ignored_by_git_is_no_part_of_a_package() -> None:
    """The wheel is made without what git does not know, so nothing the program needs may be that."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    files = [str(file) for file in (ROOT / "src").rglob("*") if file.is_file() and "__pycache__" not in file.parts]

    done = subprocess.run(
        ["git", "check-ignore", "--stdin"],  # noqa: S607 - whichever git there is
        cwd=ROOT, input="\n".join(files), capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.stdout == ""


def test_the_health_check_tells_a_server_that_answers_from_one_that_does_not(tmp_path: Path) -> None:
    """0 and 1, the only exit codes that Docker knows; it needs no login."""
    environ = {"PATH": f"{BIN}{os.pathsep}{os.defpath}", "IRON_CONFIG_DIR": str(tmp_path / "none")}
    with ServerProcess(tmp_path) as server:
        port = str(server.port)
        well = in_shell(health_command(), SERVER_PORT=port, **environ)
        server.terminate()
    ill = in_shell(health_command(), SERVER_PORT=port, **environ)

    assert (well.returncode, '"healthy"' in well.stdout) == (0, True), well.stderr
    assert ill.returncode == 1

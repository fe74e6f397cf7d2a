"""Deployment: the files that put a server into production, as the tests read them."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ironcage_http import variables
from ironcage_http.settings import Settings, read_settings
from tests.support.processes import ROOT

DEPLOY = ROOT / "deploy"
KNOWN = {each.name for each in variables.VARIABLES}
SECRETS = {
    "JWT_SECRET": "the signing secret of these tests, long enough",
    "IC_TOKEN_SECRET": "another signing secret, just as long as that",
    "IRON_SECRETS_MASTER_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
}
OTHERS = {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
"""Variables of a deployment that are not ours."""


class Step(NamedTuple):
    """One instruction of a Dockerfile."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """Its JSON list."""
        words = json.loads(self.rest)
        assert all(isinstance(word, str) for word in words)
        return list(words)


def dockerfile() -> list[Step]:
    """Read the Dockerfile, without comments and with its lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def image() -> list[Step]:
    """Return the instructions of the image's own stage, the last one."""
    steps = dockerfile()
    start = max(place for place, step in enumerate(steps) if step.name == "FROM")
    return steps[start:]


def of_kind(steps: list[Step], name: str) -> list[str]:
    """Return what stands behind the instructions of one kind."""
    return [step.rest for step in steps if step.name == name]


def image_environment() -> dict[str, str]:
    """Return the variables that the image sets; a build argument without a value is empty."""
    pairs = re.findall(r'(\w+)="([^"]*)"', " ".join(of_kind(image(), "ENV")))
    return {name: re.sub(r"\$\{(COMMIT|BUILT_AT)\}", "", value) for name, value in pairs}


def health_command() -> str:
    """Return what a shell runs to ask the image how it is."""
    (check,) = of_kind(image(), "HEALTHCHECK")
    shell, option, command = json.loads(check.partition("CMD ")[2])
    assert (shell, option) == ("sh", "-c")
    return str(command)


def unit(name: str) -> dict[str, list[str]]:
    """Read a unit of systemd: every value of every key, whatever its section."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / name).read_text().splitlines():
        key, sign, value = line.partition("=")
        if sign and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def accepted(environ: Mapping[str, str], folder: Path) -> Settings:
    """Read settings as the server does; they may break no rule and give no warning."""
    ours = {name: value for name, value in environ.items() if name not in OTHERS}
    assert set(ours) <= KNOWN
    settings = read_settings(ours, folder=folder)
    assert settings.warnings == ()
    return settings


def in_shell(command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command line as the deployment's files have it."""
    return subprocess.run(  # noqa: S603 - our own files
        ["/bin/sh", "-c", command], env=environ, capture_output=True, text=True, check=False, timeout=60
    )

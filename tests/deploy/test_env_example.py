""".env.example: filled in as its comments say, it is the environment of a production server without a warning."""

import os
import re
from pathlib import Path

import pytest

from ironcage_http.settings import SettingsError, read_settings
from tests.support.deployment import KNOWN, SECRETS, accepted, image_environment, in_shell
from tests.support.processes import ROOT

LINES = (ROOT / ".env.example").read_text().splitlines()
SETTING = re.compile(r"(#?)([A-Z][A-Z0-9_]*)=(.*)")


def settings_of(*, all_of_them: bool) -> dict[str, str]:
    """Return what the file sets, or would with every `#` before a setting taken away; commands make what is empty."""
    found: dict[str, str] = {}
    command = ""
    for line in LINES:
        setting = SETTING.fullmatch(line)
        if setting is None:
            command = line.rpartition(": ")[2] if "/dev/urandom" in line else command
            continue
        off, name, value = setting.groups()
        if all_of_them or not off:
            found[name] = value or in_shell(command, PATH=os.defpath).stdout.strip()
    return found


def test_every_setting_in_it_is_known_and_named_once() -> None:
    """A misspelt one would do nothing."""
    names = [setting[2] for line in LINES if (setting := SETTING.fullmatch(line))]

    assert set(names) <= KNOWN
    assert len(names) == len(set(names))


def test_as_it_is_it_starts_nothing() -> None:
    """Whoever forgets the secrets is told which."""
    environ = {
        name: value for line in LINES if (found := SETTING.fullmatch(line)) for _, name, value in [found.groups()]
    }
    as_it_is = {name: environ[name] for name in SECRETS}

    with pytest.raises(SettingsError) as refused:
        read_settings({**image_environment(), **as_it_is})

    assert set(as_it_is.values()) == {""}
    assert [problem.split(" ")[0] for problem in refused.value.problems] == ["JWT_SECRET"]


def test_with_its_secrets_made_it_is_production_without_a_warning(tmp_path: Path) -> None:
    """The commands of the comments make secrets that are taken, and each of its own."""
    made = settings_of(all_of_them=False)
    settings = accepted({**image_environment(), **made}, tmp_path)

    assert set(made) == set(SECRETS)
    assert len({settings.jwt_secret, settings.ic_token_secret, *made.values()}) == 3
    assert settings.mode == "production"
    assert settings.master_key is not None


def test_with_everything_taken_in_it_is_still_without_a_warning(tmp_path: Path) -> None:
    """Every example is a value that counts."""
    everything = settings_of(all_of_them=True)
    password = tmp_path / "password"
    password.write_text("a password for one test\n")
    environ = {**image_environment(), **everything, "IRON_ADMIN_PASSWORD_FILE": str(password)}

    settings = accepted(environ, tmp_path)

    assert settings.admin is not None
    assert settings.allowed_origins == ("https://panel.example.com",)
    assert len(settings.trusted_proxies) == 2
    assert settings.metrics_token == everything["IRON_METRICS_TOKEN"]


def test_no_line_of_it_means_two_things_to_two_readers() -> None:
    """No quotes, no blanks around a value and nothing behind it, for readers differ about those."""
    values = [setting[3] for line in LINES if (setting := SETTING.fullmatch(line))]

    assert [value for value in values if re.search(r"[\s'\"#$\\]", value)] == []
    assert [line for line in LINES if line and not line.startswith("#") and SETTING.fullmatch(line) is None] == []

"""The master keys that a command on a database knows: those that a server on it would know."""

import os
from pathlib import Path

import click

from ironcage_http import variables as v
from ironcage_http.environment import Environment
from ironcage_http.secrets_file import secrets_beside
from ironcage_http.settings_secrets import MasterKeys, master_keys


def environment() -> Environment:
    """Return the variables of the master keys.

    Raises:
        click.UsageError: One breaks its rule.
    """
    env = Environment(os.environ, [v.MASTER_KEY, v.MASTER_KEY_PREVIOUS])
    if env.problems:
        raise click.UsageError("; ".join(env.problems))
    return env


def known_keys(database: Path) -> MasterKeys:
    """Return the master keys of this environment and of the secrets file.

    Raises:
        click.UsageError: A variable breaks its rule.
        SecretsFileError: The secrets file is there and must not be used.
    """
    return master_keys(environment(), secrets_beside(database, may_create=False))

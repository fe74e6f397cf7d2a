"""Settings: an environment is taken as a whole or refused as a whole, and no refusal repeats a value."""

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from ironcage_core.domain.leases import DEFAULT_POLICY, LeasePolicy
from ironcage_http.secrets_file import SecretsFileError, StoredSecrets, secrets_beside, secrets_path
from ironcage_http.settings import DEFAULT_ORIGINS, Settings, SettingsError, read_settings, settings_reference
from ironcage_http.settings_secrets import DEVELOPMENT_JWT_SECRET
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sealed.vault import MasterKey
from tests.support.errors import everything_said_by

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is tested binds nothing
ROOT = Path(__file__).parents[2]
MARK = "q7Zmarker"
LONG = "a-long-secret-of-the-operator-0123456789"
OTHER_LONG = "another-secret-of-the-operator-9876543210"
KEY = base64.b64encode(bytes(range(32))).decode()
ZERO_KEY = base64.b64encode(bytes(32)).decode()
MEMORY = {"DATABASE_URL": "sqlite::memory:"}
PRODUCTION = {
    "IRON_DEPLOYMENT_MODE": "production",
    "DATABASE_URL": "sqlite:////nowhere/iron.db",
    "JWT_SECRET": LONG,
    "IC_TOKEN_SECRET": OTHER_LONG,
    "IRON_SECRETS_MASTER_KEY": KEY,
}


def problems_of(environ: Mapping[str, str], folder: Path = Path()) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as refused:
        read_settings(environ, folder=folder)
    said = everything_said_by(refused.value)
    told = [value for value in environ.values() if len(value) > len("production") and value in said]
    assert told == []
    assert MARK not in said
    assert refused.value.code == "STARTUP_ERROR"
    assert all(problem in refused.value.message for problem in refused.value.problems)
    return refused.value.problems


def problem_of(environ: Mapping[str, str]) -> str:
    (problem,) = problems_of(environ)
    return problem


def development(**environ: str) -> Settings:
    return read_settings({**MEMORY, **environ})


# --- single variables --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("SERVER_PORT", "1", "port", 1),
        ("SERVER_PORT", " 65535 ", "port", 65_535),
        ("SERVER_HOST", "::1", "host", "::1"),
        ("SERVER_HOST", "LocalHost", "host", "LocalHost"),
        ("JWT_ACCESS_TOKEN_TTL", "60", "access_ttl_s", 60),
        ("JWT_REFRESH_TOKEN_TTL", "900", "refresh_ttl_s", 900),
        ("IRON_SESSION_MAX_AGE", "604800", "session_max_age_s", 604_800),
        ("IRON_REFRESH_REUSE_GRACE_SECONDS", "60", "reuse_grace_s", 60),
        ("IRON_MAX_SESSIONS_PER_USER", "0", "max_sessions", 0),
        ("IRON_LOCKOUT_THRESHOLD", "1", "lockout_threshold", 1),
        ("IRON_LOCKOUT_SECONDS", "1", "lockout_s", 1),
        ("IRON_PASSWORD_MIN_LENGTH", "8", "password_min_length", 8),
        ("IRON_MAX_ACTIVE_TOKENS_PER_USER", "1", "max_active_tokens", 1),
        ("IRON_MAX_BODY_BYTES", "1", "max_body_bytes", 1),
        ("IRON_LEASE_SWEEP_SECONDS", "1", "sweep_s", 1),
        ("IRON_RATE_LIMIT_ENABLED", "TRUE", "rate_limit_enabled", True),
        ("ENABLE_DEMO_SEED", "1", "demo_seed", True),
        ("IRON_DEV_RESET_DB", "false", "reset_database", False),
        (
            "IRON_RATE_LIMITS",
            ' {"login": "120/min", "return": "7/10"} ',
            "rate_limits",
            {"login": (120, 60), "return": (7, 10)},
        ),
        ("IRON_AUDIT_RETENTION_DAYS", "1", "audit_retention_days", 1),
        ("IRON_USAGE_RETENTION_DAYS", "7", "usage_retention_days", 7),
        ("IRON_USAGE_RETENTION_DAYS", "2555", "usage_retention_days", 2555),
        ("IRON_HOUR_ROLLUP_RETENTION_DAYS", "2", "hour_rollup_retention_days", 2),
        ("IRON_SAFETY_RETENTION_DAYS", "7", "safety_retention_days", 7),
        ("IRON_CALL_KEY_RETENTION_DAYS", "90", "call_key_retention_days", 90),
        ("IRON_CALL_KEY_RETENTION_DAYS", "0", "call_key_retention_days", None),
        ("IRON_FEED_RETENTION_HOURS", "1", "feed_retention_hours", 1),
        ("IRON_FEED_RETENTION_EVENTS", "1000", "feed_retention_events", 1000),
        ("IRON_ALLOWED_PROVIDERS", " anthropic, openai,anthropic,", "allowed_providers", ("anthropic", "openai")),
        ("IRON_ALLOWED_PROVIDERS", " ", "allowed_providers", ("openai", "anthropic")),
        ("IRON_METRICS_TOKEN", "m-0123456789-abcdef", "metrics_token", "m-0123456789-abcdef"),
        ("IRON_LOG_LEVEL", "DEBUG", "log_level", "debug"),
        ("RUST_LOG", "trace", "log_level", "trace"),
        ("IRON_DEPLOYMENT_MODE", "development", "mode", "development"),
        (
            "ALLOWED_ORIGINS",
            "https://A.example:443, http://b:80,http://[::1]:3000,",
            "allowed_origins",
            ("https://a.example", "http://b", "http://[::1]:3000"),
        ),
        ("JWT_SECRET", "", "jwt_secret", DEVELOPMENT_JWT_SECRET),
        ("JWT_SECRET_PREVIOUS", OTHER_LONG, "jwt_secret_previous", OTHER_LONG),
        ("IC_TOKEN_SECRET", LONG, "ic_token_secret", LONG),
        ("IRON_SECRETS_MASTER_KEY", KEY, "master_key", MasterKey(bytes(range(32)))),
    ],
)
def test_a_value_within_its_rule_is_taken(name: str, value: str, attribute: str, expected: object) -> None:
    """The limits themselves belong to the range."""
    assert getattr(development(**{name: value}), attribute) == expected


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("SERVER_PORT", ["0", "65536", "-1", "8080x", "1_000", "٨٠", MARK]),
        ("SERVER_HOST", [f"{MARK}/x", "a b", "-a", "[::1]"]),
        ("JWT_ACCESS_TOKEN_TTL", ["59", "86401", "1e3"]),
        ("JWT_REFRESH_TOKEN_TTL", ["59", "9999999999999"]),
        ("IRON_SESSION_MAX_AGE", [MARK]),
        ("IRON_REFRESH_REUSE_GRACE_SECONDS", ["61", "-1"]),
        ("IRON_MAX_SESSIONS_PER_USER", ["-1"]),
        ("IRON_LOCKOUT_THRESHOLD", ["0"]),
        ("IRON_LOCKOUT_SECONDS", ["0"]),
        ("IRON_PASSWORD_MIN_LENGTH", ["7"]),
        ("IRON_MAX_ACTIVE_TOKENS_PER_USER", ["0"]),
        ("IRON_MAX_BODY_BYTES", ["0"]),
        ("IRON_LEASE_DEFAULT_USD", ["0", "-1", "0.0000001", "NaN", "1_0", "٨٠", MARK]),
        ("IRON_LEASE_TTL_SECONDS", ["0", "86401"]),
        ("IRON_LEASE_MAX_OPEN", ["0"]),
        ("IRON_REPORT_BATCH_MAX", ["0"]),
        ("IRON_BUDGET_ALERT_LEVELS", [",", "0", "50,50", "90,50", "50,,90", "50.5", "1001", "-1", "²", MARK]),
        ("IRON_LEASE_SWEEP_SECONDS", ["0"]),
        ("IRON_RATE_LIMIT_ENABLED", ["maybe", MARK]),
        ("IRON_RATE_LIMITS", [MARK, "[]", f'{{"{MARK}": "1/s"}}', f'{{"login": "{MARK}"}}', "[" * 100_000]),
        ("IRON_AUDIT_RETENTION_DAYS", ["0", "1.5"]),
        ("IRON_USAGE_RETENTION_DAYS", ["6", "2556"]),
        ("IRON_HOUR_ROLLUP_RETENTION_DAYS", ["1", "2556"]),
        ("IRON_ALLOWED_PROVIDERS", [",", "OpenAI", "openai anthropic", f"openai,{MARK}"]),
        ("IRON_METRICS_TOKEN", [f"{MARK} {MARK}", "ä"]),
        ("IRON_LOG_LEVEL", ["loud", MARK]),
        ("RUST_LOG", ["iron=debug", MARK]),
        ("IRON_DEPLOYMENT_MODE", ["prod", MARK]),
        ("IRON_SECRETS_MASTER_KEY", [KEY[:-4], KEY.rstrip("="), MARK, base64.b64encode(bytes(33)).decode()]),
        ("IC_TOKEN_SECRET", ["x" * 31]),
        ("IRON_TRUSTED_PROXIES", ["10.0.0.1/8", MARK, "10.0.0.0/33", "10.0.0.1,nonsense"]),
        (
            "ALLOWED_ORIGINS",
            [
                "*",
                "https://a/",
                "https://a/b",
                "https://u@a",
                "a.example",
                "https://a:0",
                "https://a:65536",
                "ftp://a",
                "null",
                "https://*.a",
                "https://a,*",
                "https://[::g]",
                "https://a..b",
                f"https://a?{MARK}",
            ],
        ),
        ("IRON_ADMIN_EMAIL", [MARK]),
    ],
)
def test_a_value_beyond_its_rule_is_a_problem_that_names_the_variable(name: str, values: list[str]) -> None:
    """The rule is told, never the value."""
    for value in values:
        assert any(p.startswith(f"{name} must be ") for p in problems_of({**MEMORY, name: value})), value


def test_an_empty_environment_has_the_defaults_of_the_contract(tmp_path: Path) -> None:
    """Contract identity.md 10 and budget.md 0."""
    settings = read_settings({}, folder=tmp_path)

    assert (settings.mode, settings.host, settings.port) == ("pilot", "127.0.0.1", 8080)
    assert settings.database == tmp_path / "iron.db"
    assert (settings.access_ttl_s, settings.refresh_ttl_s, settings.session_max_age_s) == (900, 604_800, 2_592_000)
    assert (settings.reuse_grace_s, settings.max_sessions, settings.password_min_length) == (0, 0, 8)
    assert (settings.lockout_threshold, settings.lockout_s, settings.max_active_tokens) == (10, 1800, 10)
    assert (settings.max_body_bytes, settings.sweep_s, settings.leases) == (1_048_576, 5, DEFAULT_POLICY)
    assert (settings.allowed_origins, settings.trusted_proxies) == (DEFAULT_ORIGINS, ())
    assert settings.allowed_providers == ("openai", "anthropic")
    assert (settings.rate_limit_enabled, settings.log_level, settings.metrics_token) == (False, "info", None)
    assert (settings.rate_limits, settings.audit_retention_days) == ({}, 90)
    assert (settings.usage_retention_days, settings.hour_rollup_retention_days) == (90, 90)
    assert (settings.safety_retention_days, settings.call_key_retention_days) == (365, None)
    assert (settings.feed_retention_hours, settings.feed_retention_events) == (24, 100_000)
    assert (settings.admin, settings.reset_database, settings.demo_seed) == (None, False, False)
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///./iron.db", Path("/base/iron.db")),
        ("sqlite:///data/iron.db?mode=rwc", Path("/base/data/iron.db")),
        ("sqlite:////var/iron.db", Path("/var/iron.db")),
        ("SQLITE:////var/with%20blank.db", Path("/var/with blank.db")),
        ("sqlite::memory:", ":memory:"),
        ("sqlite::memory:?mode=rwc", ":memory:"),
    ],
)
def test_a_database_address_names_a_file_or_memory(url: str, expected: object) -> None:
    """A relative path starts in the folder."""
    assert read_settings({"DATABASE_URL": url, "JWT_SECRET": LONG}, folder=Path("/base")).database == expected


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:q7Zmarker@h/d",
        "iron.db",
        "sqlite:",
        "sqlite:///",
        "sqlite:///a/",
        "sqlite://iron.db",
        "sqlite:iron.db",
        "sqlite:///a.db?mode=ro",
        "sqlite:///a%00b",
        "sqlite:///..",
        "sqlite:///:memory:",
    ],
)
def test_an_unknown_database_address_is_a_problem(url: str) -> None:
    """A password in it is not repeated."""
    assert problem_of({"DATABASE_URL": url}).startswith("DATABASE_URL must be sqlite:///")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "POSTGRESQL", "postgresql+asyncpg"])
def test_a_postgres_address_is_told_that_it_is_not_supported_yet(scheme: str) -> None:
    """A later step; the password part stays unsaid."""
    problem = problem_of({"DATABASE_URL": f"{scheme}://user:{MARK}@host/db"})

    assert problem == "DATABASE_URL: PostgreSQL is not supported yet; use an sqlite: address"


def test_the_lease_policy_is_that_of_the_environment() -> None:
    """Money in micro-USD, durations in milliseconds."""
    settings = development(
        IRON_LEASE_DEFAULT_USD="0.5",
        IRON_LEASE_MAX_USD="2",
        IRON_LEASE_TTL_SECONDS="10",
        IRON_LEASE_GRACE_SECONDS="0",
        IRON_LEASE_MAX_LIFETIME_SECONDS="20",
        IRON_LEASE_MAX_OPEN="3",
        IRON_REPORT_MAX_USD="4",
        IRON_REPORT_BATCH_MAX="5",
        IRON_BUDGET_ALERT_LEVELS="1, 75,1000",
        IRON_SETTLE_SECONDS="6",
    )

    assert settings.leases == LeasePolicy(500_000, 2_000_000, 10_000, 0, 20_000, 3, 4_000_000, 5, (1, 75, 1000), 6_000)


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"JWT_REFRESH_TOKEN_TTL": "899"}, "JWT_REFRESH_TOKEN_TTL must not be below JWT_ACCESS_TOKEN_TTL"),
        ({"IRON_SESSION_MAX_AGE": "604799"}, "IRON_SESSION_MAX_AGE must not be below JWT_REFRESH_TOKEN_TTL"),
        (
            {"IRON_CALL_KEY_RETENTION_DAYS": "89"},
            "IRON_CALL_KEY_RETENTION_DAYS must be 0 or not below IRON_USAGE_RETENTION_DAYS",
        ),
        ({"IRON_LEASE_MAX_USD": "9.99"}, "IRON_LEASE_MAX_USD must not be below IRON_LEASE_DEFAULT_USD"),
        (
            {"IRON_LEASE_MAX_LIFETIME_SECONDS": "3599"},
            "IRON_LEASE_MAX_LIFETIME_SECONDS must not be below IRON_LEASE_TTL_SECONDS",
        ),
    ],
)
def test_two_variables_that_contradict_each_other_are_a_problem(environ: dict[str, str], problem: str) -> None:
    """An unset one counts with its default."""
    assert problem_of({**MEMORY, **environ}) == problem


def test_trusted_proxies_are_networks() -> None:
    """An address is a network of one."""
    proxies = development(IRON_TRUSTED_PROXIES="10.0.0.0/8, 192.0.2.1 ,fd00::/8").trusted_proxies

    assert [str(each) for each in proxies] == ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]


def test_our_log_level_wins_over_that_of_rust() -> None:
    """So a RUST_LOG meant for others does no harm."""
    assert development(IRON_LOG_LEVEL="warn", RUST_LOG="hyper=trace").log_level == "warn"


# --- all at once, and nothing said -------------------------------------------


def test_all_problems_are_told_together(tmp_path: Path) -> None:
    """One start shows everything there is to mend, and leaves nothing behind."""
    environ = {
        "SERVER_HOST": EVERYWHERE,
        "SERVER_PORT": MARK,
        "IC_TOKEN_SECRET": MARK,
        "IRON_ADMIN_PASSWORD": MARK,
        "IRON_LEASE_MAX_USD": "1",
        "RUST_LOG": MARK,
    }

    names = [problem.split(" ")[0] for problem in problems_of(environ, tmp_path)]

    assert sorted(names) == ["IC_TOKEN_SECRET", "IRON_ADMIN_PASSWORD", "IRON_LEASE_MAX_USD", "RUST_LOG", "SERVER_PORT"]
    assert list(tmp_path.iterdir()) == []


def test_settings_show_no_secret() -> None:
    """Neither in their repr nor in their warnings."""
    settings = development(
        JWT_SECRET=MARK,
        JWT_SECRET_PREVIOUS=f"{MARK}2",
        IC_TOKEN_SECRET=MARK * 4,
        IRON_METRICS_TOKEN=MARK,
        IRON_SECRETS_MASTER_KEY=KEY,
        IRON_ADMIN_EMAIL="a@example.com",
        IRON_ADMIN_PASSWORD=MARK,
        IRON_MISSPELT=MARK,
    )

    assert MARK not in repr(settings)
    assert KEY not in repr(settings)
    assert len(settings.warnings) == 4


def test_a_misspelt_setting_is_a_warning_that_names_it() -> None:
    """It is not silently ignored; what is not ours is none of our business."""
    warnings = development(IRON_LEASE_TTL_SECOND="1", HOME="/x").warnings

    assert "IRON_LEASE_TTL_SECOND is not a setting of ironcage; did you mean IRON_LEASE_TTL_SECONDS?" in warnings
    assert not any("HOME" in warning for warning in warnings)


# --- where the server stands -------------------------------------------------


@pytest.mark.parametrize("mark", ["KUBERNETES_SERVICE_HOST", "AWS_EXECUTION_ENV", "DYNO"])
def test_a_cluster_means_production_with_a_warning(mark: str) -> None:
    """Only where no mode is set."""
    rest = {name: value for name, value in PRODUCTION.items() if name != "IRON_DEPLOYMENT_MODE"}
    detected = read_settings({**rest, mark: "x"})

    assert detected.mode == "production"
    assert any(mark in warning for warning in detected.warnings)
    assert read_settings({**rest, mark: "x", "IRON_DEPLOYMENT_MODE": "pilot"}).mode == "pilot"


def test_production_is_open_to_other_machines_and_to_no_origin() -> None:
    """The defaults that the mode decides."""
    settings = read_settings(PRODUCTION)

    assert (settings.host, settings.allowed_origins, settings.rate_limit_enabled) == (EVERYWHERE, (), True)
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", ""),
        ("JWT_SECRET", ""),
        ("JWT_SECRET", DEVELOPMENT_JWT_SECRET),
        ("JWT_SECRET", "x" * 31),
        ("JWT_SECRET", "a-placeholder-to-change-in-production-please"),
        ("JWT_SECRET_PREVIOUS", DEVELOPMENT_JWT_SECRET),
        ("IC_TOKEN_SECRET", "dev-ic-token-secret-change-in-production"),
        ("IRON_SECRETS_MASTER_KEY", ZERO_KEY),
        ("IRON_RATE_LIMIT_ENABLED", "false"),
        ("ENABLE_DEMO_SEED", "true"),
        ("IRON_DEV_RESET_DB", "true"),
        ("ALLOWED_ORIGINS", "http://panel.example"),
        ("ALLOWED_ORIGINS", "https://panel.example,https://localhost:3000"),
        ("ALLOWED_ORIGINS", "https://app.localhost"),
        ("ALLOWED_ORIGINS", "https://127.0.0.1"),
        ("ALLOWED_ORIGINS", "https://[::1]:8443"),
    ],
)
def test_production_refuses_what_is_insecure(name: str, value: str) -> None:
    """One is enough."""
    assert problem_of({**PRODUCTION, name: value}).startswith(name)


def test_production_says_what_it_lacks() -> None:
    """Neither a master key nor an IC token secret is needed to start."""
    environ = {name: PRODUCTION[name] for name in ("IRON_DEPLOYMENT_MODE", "DATABASE_URL", "JWT_SECRET")}

    names = [warning.split(" ")[0] for warning in read_settings(environ).warnings]

    assert names == ["IRON_SECRETS_MASTER_KEY", "IC_TOKEN_SECRET"]


@pytest.mark.parametrize("secret", ["", "short", DEVELOPMENT_JWT_SECRET])
def test_a_weak_jwt_secret_is_taken_on_a_loopback_address_only(secret: str) -> None:
    """In development and pilot alike."""
    for mode in ("pilot", "development"):
        environ = {**MEMORY, "JWT_SECRET": secret, "IRON_DEPLOYMENT_MODE": mode}
        for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
            settings = read_settings({**environ, "SERVER_HOST": host})
            assert settings.jwt_secret == (secret or DEVELOPMENT_JWT_SECRET)
            assert any(warning.startswith("JWT_SECRET ") for warning in settings.warnings)
        for host in (EVERYWHERE, "::", "192.0.2.1", "panel.example"):
            assert problem_of({**environ, "SERVER_HOST": host}).startswith("JWT_SECRET ")


def test_an_address_others_can_reach_limits_rates_unless_told_otherwise() -> None:
    """False is refused in production only."""
    environ = {**MEMORY, "JWT_SECRET": LONG, "SERVER_HOST": EVERYWHERE}

    assert read_settings(environ).rate_limit_enabled
    assert not read_settings({**environ, "IRON_RATE_LIMIT_ENABLED": "false"}).rate_limit_enabled


def test_only_development_may_wipe_the_database() -> None:
    """Not even pilot."""
    assert development(IRON_DEPLOYMENT_MODE="development", IRON_DEV_RESET_DB="true").reset_database
    assert problem_of({**MEMORY, "IRON_DEV_RESET_DB": "true"}).startswith("IRON_DEV_RESET_DB ")


def test_the_ic_token_secret_is_derived_from_the_jwt_secret() -> None:
    """Always the same, not the secret itself, and long enough to sign."""
    one, same, other = (development(JWT_SECRET=secret).ic_token_secret for secret in (LONG, LONG, OTHER_LONG))

    assert one == same != other
    assert one != LONG
    IcTokenSigner(one)


# --- the first admin ---------------------------------------------------------


def test_the_first_admin_has_an_email_a_name_and_a_password(tmp_path: Path) -> None:
    """The password may stand in a file, whose last line break does not belong to it."""
    (tmp_path / "password").write_text("from a file \n")
    given = {**MEMORY, "IRON_ADMIN_EMAIL": "a@example.com"}

    direct = read_settings({**given, "IRON_ADMIN_PASSWORD": " direct", "IRON_ADMIN_USERNAME": "root"}).admin
    filed = read_settings({**given, "IRON_ADMIN_PASSWORD_FILE": "password"}, folder=tmp_path).admin

    assert direct is not None
    assert (direct.email, direct.username, direct.password) == ("a@example.com", "root", " direct")
    assert filed is not None
    assert (filed.username, filed.password) == ("admin", "from a file ")


@pytest.mark.parametrize(
    "names",
    [
        {"IRON_ADMIN_EMAIL": "a@example.com"},
        {"IRON_ADMIN_PASSWORD": MARK},
        {"IRON_ADMIN_EMAIL": "a@example.com", "IRON_ADMIN_PASSWORD": MARK, "IRON_ADMIN_PASSWORD_FILE": "good"},
        {"IRON_ADMIN_EMAIL": "a@example.com", "IRON_ADMIN_PASSWORD_FILE": f"missing-{MARK}"},
        {"IRON_ADMIN_EMAIL": "a@example.com", "IRON_ADMIN_PASSWORD_FILE": "empty"},
        {"IRON_ADMIN_EMAIL": "a@example.com", "IRON_ADMIN_PASSWORD_FILE": "binary"},
    ],
)
def test_half_an_admin_is_a_problem(tmp_path: Path, names: dict[str, str]) -> None:
    """Email and exactly one readable password belong together."""
    (tmp_path / "good").write_text(MARK)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(MARK.encode() + b"\xff")

    assert len(problems_of({**MEMORY, **names}, tmp_path)) == 1


# --- the secrets file --------------------------------------------------------


def made(folder: Path) -> tuple[StoredSecrets, Path]:
    stored = secrets_beside(folder / "iron.db", may_create=True)
    assert stored is not None
    return stored, secrets_path(folder / "iron.db")


def test_without_configuration_the_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    """A second start has the same secrets; only the owner can read them, and nothing else is left behind."""
    first, second = (read_settings({}, folder=tmp_path) for _ in range(2))

    (file,) = tmp_path.iterdir()
    assert file.name == "iron.db.secrets"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert first == second
    assert len({first.jwt_secret, first.ic_token_secret, DEVELOPMENT_JWT_SECRET}) == 3
    assert first.master_key is not None
    assert first.warnings == ()


def test_without_configuration_other_machines_may_reach_the_server_too(tmp_path: Path) -> None:
    """What was made up is as strong as what is asked for."""
    assert read_settings({"SERVER_HOST": EVERYWHERE}, folder=tmp_path).jwt_secret != DEVELOPMENT_JWT_SECRET


@pytest.mark.parametrize(
    "environ",
    [{"DATABASE_URL": "sqlite:///./iron.db"}, {"JWT_SECRET": LONG}, {"IRON_SECRETS_MASTER_KEY": KEY}],
)
def test_with_any_of_the_three_set_nothing_is_made_up(tmp_path: Path, environ: dict[str, str]) -> None:
    """Then the table alone holds."""
    read_settings(environ, folder=tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_production_makes_nothing_up(tmp_path: Path) -> None:
    """It says what it needs."""
    problems = problems_of({"IRON_DEPLOYMENT_MODE": "production"}, tmp_path)

    assert [problem.split(" ")[0] for problem in problems] == ["DATABASE_URL", "JWT_SECRET"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["pilot", "production"])
def test_a_secrets_file_fills_in_what_no_variable_sets(tmp_path: Path, mode: str) -> None:
    """So that stored provider keys stay readable after the first variable is set."""
    stored, _ = made(tmp_path)
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path}/iron.db", "IRON_DEPLOYMENT_MODE": mode}

    filled, given = read_settings(environ), read_settings({**environ, "JWT_SECRET": LONG})

    assert (filled.jwt_secret, filled.ic_token_secret) == (stored.jwt_secret, stored.ic_token_secret)
    assert (given.jwt_secret, given.ic_token_secret) == (LONG, stored.ic_token_secret)
    assert filled.master_key == given.master_key == stored.master_key


def test_new_secrets_beside_an_old_database_are_a_warning(tmp_path: Path) -> None:
    """What another key sealed does not open."""
    (tmp_path / "iron.db").touch()

    assert "was made new" in " ".join(read_settings({}, folder=tmp_path).warnings)
    assert read_settings({}, folder=tmp_path).warnings == ()


def test_a_missing_secrets_file_is_none_where_none_may_be_made(tmp_path: Path) -> None:
    """Looking makes nothing."""
    assert secrets_beside(tmp_path / "iron.db", may_create=False) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610])
def test_a_secrets_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """The text says how to mend it."""
    stored, file = made(tmp_path)
    file.chmod(mode)

    (problem,) = problems_of({}, tmp_path)

    assert "iron.db.secrets is open to group or others: run chmod 600" in problem
    assert stored.jwt_secret not in problem


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"jwt_secret": "short" + MARK},
        {"ic_token_secret": None},
        {"master_key": MARK},
        {"master_key": 5},
    ],
)
def test_a_malformed_secrets_file_is_refused_and_stays(tmp_path: Path, change: dict[str, object]) -> None:
    """Nothing of it is told, and it is not made anew: it may be all that opens the provider keys."""
    stored, file = made(tmp_path)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    before = file.read_bytes()

    with pytest.raises(SecretsFileError) as refused:
        secrets_beside(tmp_path / "iron.db", may_create=True)

    said = everything_said_by(refused.value)
    assert str(file) in said
    assert [each for each in (MARK, stored.jwt_secret, stored.ic_token_secret) if each in said] == []
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", MARK.encode(), b"\xff\xfe", b"[" * 60_000])
def test_a_secrets_file_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    """A half-written copy, for instance."""
    _, file = made(tmp_path)
    file.write_bytes(content)

    assert "is damaged" in problems_of({}, tmp_path)[0]


def test_a_secrets_file_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder or a pipe in its place neither passes nor hangs the start."""
    secrets_path(tmp_path / "a.db").mkdir(0o700)
    os.mkfifo(secrets_path(tmp_path / "b.db"), 0o600)

    for name in ("a.db", "b.db"):
        with pytest.raises(SecretsFileError, match=r"is not a regular file|Is a directory"):
            secrets_beside(tmp_path / name, may_create=True)


def test_a_folder_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    """The message names the file that could not be made."""
    (problem,) = problems_of({}, tmp_path / "missing")

    assert "missing/iron.db.secrets cannot be used: No such file" in problem


def test_threads_that_make_the_secrets_at_once_get_the_same(tmp_path: Path) -> None:
    """The first to link its file wins."""
    barrier = Barrier(8)

    def start() -> StoredSecrets | None:
        barrier.wait()
        return secrets_beside(tmp_path / "iron.db", may_create=True)

    with ThreadPoolExecutor(8) as pool:
        found = [each.result() for each in [pool.submit(start) for _ in range(8)]]

    assert found[0] is not None
    assert all(each == found[0] for each in found)
    assert [file.name for file in tmp_path.iterdir()] == ["iron.db.secrets"]


def test_processes_that_start_at_once_get_the_same_secrets(tmp_path: Path) -> None:
    """As two servers on one database do."""
    program = (
        "import sys; from pathlib import Path; from ironcage_http.settings import read_settings; print('ready', "
        "flush=True); sys.stdin.readline(); s = read_settings({}, folder=Path(sys.argv[1])); "
        "print(s.jwt_secret, s.ic_token_secret, s.master_key.to_base64())"
    )
    children = [
        subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", program, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"

    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    said = {child.communicate(timeout=30)[0] for child in children}

    assert len(said) == 1
    assert len(said.pop().split()) == 3


# --- the reference -----------------------------------------------------------


def test_the_reference_page_holds_the_table_of_the_code() -> None:
    """When it does not, put the output of `settings_reference()` in its place."""
    assert (ROOT / "docs" / "reference" / "settings.md").read_text().endswith("\n\n" + settings_reference())

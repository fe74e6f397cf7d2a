"""What is sealed opens for whom it was sealed and as it was sealed, or not at all, and no refusal tells of it."""

from itertools import count
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_core.errors.faults import SecretUnreadableError
from ironcage_core.errors.tree import StartupError
from ironcage_http.logins import Login, LoginFile, LoginFileError
from ironcage_http.secrets_file import SecretsFileError, StoredSecrets, renew_master_key, secrets_beside, secrets_path
from ironcage_storage.sealed.ip_tokens import IpTokenError, IpTokenSealer, open_ip_token
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey, key_id_of
from tests.fuzz.alterations import altered, altered_bytes, values
from tests.fuzz.effort import examples
from tests.fuzz.refusals import assert_hides

SECRET, OTHER_SECRET = "sk-live-this-is-the-provider-key", "sk-live-the-key-of-another"
BINDING = {
    "ic_token": "eyJhbGciOiJIUzI1NiJ9.eyJ0ZXN0IjoxfQ.c2lnbmF0dXJl",
    "agent_id": f"agent_{'a' * 32}",
    "lease_id": f"lease_{'1' * 32}",
    "provider": "openai",
}
OTHER = {**BINDING, "lease_id": f"lease_{'2' * 32}", "ic_token": "eyJhbGciOiJIUzI1NiJ9.eyJ0ZXN0IjoyfQ.c2lnbmF0dXJl"}


NUMBERS = count()
SEALER = IpTokenSealer(lambda size: next(NUMBERS).to_bytes(size, "big"))
OURS = {SEALER.seal(secret, **BINDING): secret for secret in (SECRET, OTHER_SECRET, "")}
THEIRS = tuple(SEALER.seal(secret, **OTHER) for secret in (SECRET, OTHER_SECRET))
BARE = st.sampled_from("\u0430\u03b1:|\x00 \n\ud800_-0aA.")


def opened(ip_token: str, **binding: str) -> str | None:
    """Return what an IP token holds; None if it is refused, with nothing told of it."""
    try:
        return open_ip_token(ip_token, **{**BINDING, **binding})
    except IpTokenError as refused:
        assert_hides(refused, *ip_token.split(":"), SECRET, BINDING["ic_token"])
        return None


@examples(150)
@given(altered(*OURS, *THEIRS, joint=":"))
def test_no_altered_ip_token_opens(value: str) -> None:
    """Neither with parts of others, nor cut, nor spelled otherwise: one key has one spelling."""
    assert opened(value) == OURS.get(value)


@examples(100)
@given(st.sampled_from(sorted(BINDING)), st.data())
def test_no_ip_token_opens_under_an_altered_binding(field: str, data: st.DataObject) -> None:
    """Not even where the key that is derived would be the same, as with zeros behind the lease's id."""
    given_now = data.draw(altered(BINDING[field], OTHER[field], joint="_", characters=BARE))

    found = opened(next(iter(OURS)), **{field: given_now})

    is_same = given_now.removeprefix("ic_") == BINDING[field] if field == "ic_token" else given_now == BINDING[field]
    assert found == (SECRET if is_same else None)


def test_a_border_between_bound_values_cannot_be_moved() -> None:
    """They are one text where they are bound."""
    joined = f"{BINDING['agent_id']}|{BINDING['lease_id']}"

    assert opened(next(iter(OURS)), agent_id=joined, lease_id="") is None
    assert opened(next(iter(OURS)), lease_id=f"{BINDING['lease_id']}\0") is None
    assert opened(next(iter(OURS)), lease_id=f"{BINDING['lease_id']}|openai", provider="") is None


# --- at rest ---------------------------------------------------------------------------------------------------------

KEY, OLD_KEY = MasterKey(bytes(range(32))), MasterKey(bytes(range(1, 33)))
VAULT = AesGcmVault(KEY, [OLD_KEY])
RECORDS = (f"prov_{'1' * 32}", f"prov_{'2' * 32}")
SEALED = {
    vault.seal(secret, record_id=record): (record, secret)
    for vault in (VAULT, AesGcmVault(OLD_KEY))
    for record, secret in zip(RECORDS, (SECRET, OTHER_SECRET), strict=True)
}


@examples(120)
@given(altered(*SEALED, joint=":"), st.sampled_from(RECORDS) | altered(*RECORDS, joint="_", characters=BARE))
def test_no_altered_ciphertext_opens_nor_one_of_another_record(ciphertext: str, record_id: str) -> None:
    """Nor under another master key's name."""
    record, secret = SEALED.get(ciphertext, (None, None))
    try:
        found = VAULT.open(ciphertext, record_id=record_id)
    except SecretUnreadableError as refused:
        assert_hides(refused, *ciphertext.split(":"), SECRET)
        assert record is None or record != record_id
    else:
        assert (record, secret) == (record_id, found)
    assert key_id_of(ciphertext) is None or len(str(key_id_of(ciphertext))) == 8


@examples(100)
@given(altered(KEY.to_base64(), OLD_KEY.to_base64(), joint="A"))
def test_a_master_key_has_one_spelling(text: str) -> None:
    """But for blanks around it; what is none is not repeated."""
    try:
        key = MasterKey.from_base64(text)
    except StartupError as refused:
        assert_hides(refused, *text.split())
    else:
        assert key.to_base64() == text.strip()


# --- on disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private")


def private(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


@pytest.fixture(scope="module")
def secrets(folder: Path) -> tuple[Path, bytes, StoredSecrets]:
    """A secrets file amid the renewal of its master key."""
    database = folder / "iron.db"
    secrets_beside(database, may_create=True)
    stored = renew_master_key(database)
    return database, secrets_path(database).read_bytes(), stored


FIELDS = st.sampled_from(["version", "jwt_secret", "ic_token_secret", "master_key", "previous_master_key"])


@examples(25)
@given(st.data())
def test_an_altered_secrets_file_is_read_or_refused(
    secrets: tuple[Path, bytes, StoredSecrets], data: st.DataObject
) -> None:
    """A refusal names the file and nothing that it holds."""
    database, content, stored = secrets
    text = data.draw(
        altered_bytes(content)
        | st.binary(max_size=80)
        | values(FIELDS).map(lambda each: each.encode("utf-8", "surrogatepass"))
        | st.tuples(FIELDS, values(FIELDS)).map(lambda each: _with(content, *each))
    )
    private(secrets_path(database), text)

    try:
        found = secrets_beside(database, may_create=False)
    except SecretsFileError as refused:
        assert_hides(refused, stored.jwt_secret, stored.ic_token_secret, stored.master_key.to_base64())
    else:
        assert found is not None
        assert min(len(found.jwt_secret), len(found.ic_token_secret)) >= 32
        assert len(found.master_key.raw) == 32
        assert not any(each in repr(found) for each in (found.jwt_secret, found.ic_token_secret))


def _with(content: bytes, name: str, value: str) -> bytes:
    return content.rstrip(b"\n}") + f',"{name}":{value}}}'.encode("utf-8", "surrogatepass")


def _login(value: str) -> bytes:
    return f'[1,{{"url":"u","username":null,"access_token":"t","refresh_token":null,"x":{value}}}]'.encode(
        "utf-8", "surrogatepass"
    )


LOGIN = f'[1,{{"url":"https://i.test","username":"ann","access_token":"{SECRET}","refresh_token":"{OTHER_SECRET}"}}]'


@examples(15)
@given(altered_bytes(LOGIN.encode()) | values(FIELDS).map(_login))
@example(LOGIN.encode().replace(b"ann", b"\xff"))
@example(_login("[" * 5_000))
def test_an_altered_login_file_is_read_or_refused(folder: Path, content: bytes) -> None:
    """A refusal says what to do and nothing that it holds."""
    file = LoginFile(folder)
    private(file.path, content)

    try:
        login = file.load()
    except LoginFileError as refused:
        assert_hides(refused, SECRET, OTHER_SECRET)
    else:
        assert type(login) is Login
        assert login.access_token not in repr(login) or len(login.access_token) < 8

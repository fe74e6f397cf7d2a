"""The vault binds a ciphertext to its record and its key, and no failure tells what was inside."""

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_core.errors.faults import CryptoUnavailableError, SecretUnreadableError
from ironcage_core.errors.tree import StartupError
from ironcage_core.ports.secrecy import Vault
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey, NoVault, key_id_of
from tests.support.errors import everything_said_by

KEY = MasterKey(bytes(range(32)))
OTHER_KEY = MasterKey(bytes(range(1, 33)))
VAULT = AesGcmVault(KEY)
RECORD = "prov_0190f3a1c4d27b8e9a5f001122334455"
OTHER_RECORD = "prov_0190f3a1c4d27b8e9a5f665544332211"
SECRET = "sk-test-0123456789abcdef"
SEALED = VAULT.seal(SECRET, record_id=RECORD)


def assert_unreadable(ciphertext: str, *, vault: Vault = VAULT, record_id: str = RECORD) -> None:
    with pytest.raises(SecretUnreadableError) as refused:
        vault.open(ciphertext, record_id=record_id)
    said = everything_said_by(refused.value)
    assert record_id in said
    assert SECRET not in said
    assert len(ciphertext) < 40 or ciphertext not in said
    assert refused.value.__cause__ is refused.value.__context__ is None


@given(st.text(alphabet=st.characters()), st.text(alphabet=st.characters()))
@example(SECRET, RECORD)
@example("", "")
@example("\ud800", "\udfff")
def test_what_was_sealed_opens_for_its_record(plaintext: str, record_id: str) -> None:
    """Any text comes back as it was."""
    opened = VAULT.open(VAULT.seal(plaintext, record_id=record_id), record_id=record_id)

    assert opened == plaintext


def test_two_seals_of_one_secret_share_neither_nonce_nor_ciphertext() -> None:
    """Each write has a nonce of its own."""
    one, other = (VAULT.seal(SECRET, record_id=RECORD).split(":") for _ in range(2))

    assert one[:2] == other[:2] == ["v1", KEY.key_id]
    assert one[2] != other[2]
    assert one[3] != other[3]
    assert len(base64.b64decode(one[2])) == 12


def test_a_ciphertext_moved_to_another_record_does_not_open() -> None:
    """The record id is part of what is authenticated."""
    assert_unreadable(SEALED, record_id=OTHER_RECORD)


def test_a_wrong_master_key_opens_nothing() -> None:
    """A vault that does not know the key refuses."""
    assert_unreadable(SEALED, vault=AesGcmVault(OTHER_KEY))


def test_a_wrong_master_key_under_the_right_name_opens_nothing() -> None:
    """Renaming the key in the text does not help another key."""
    renamed = SEALED.replace(KEY.key_id, OTHER_KEY.key_id)

    assert_unreadable(renamed, vault=AesGcmVault(OTHER_KEY))


def test_a_rotated_key_still_opens_what_it_sealed() -> None:
    """After a rotation the old key reads, the new one writes."""
    rotated = AesGcmVault(OTHER_KEY, previous=[KEY])

    opened = rotated.open(SEALED, record_id=RECORD)
    sealed_anew = rotated.seal(SECRET, record_id=RECORD)

    assert opened == SECRET
    assert key_id_of(SEALED) == KEY.key_id
    assert key_id_of(sealed_anew) == OTHER_KEY.key_id == rotated.key_id
    assert_unreadable(sealed_anew)


@given(st.integers(0, len(SEALED) - 1), st.characters(codec="ascii"))
def test_no_character_of_a_ciphertext_can_be_changed(position: int, character: str) -> None:
    """Every single character counts, the spare bits of base64 included."""
    altered = SEALED[:position] + character + SEALED[position + 1 :]

    if altered == SEALED:
        assert VAULT.open(altered, record_id=RECORD) == SECRET
    else:
        assert_unreadable(altered)


@given(st.integers(0, len(SEALED) - 1))
def test_a_truncated_ciphertext_does_not_open(length: int) -> None:
    """Nothing of a secret is given out before all of it is proven."""
    assert_unreadable(SEALED[:length])


@given(
    st.one_of(
        st.text(alphabet=st.characters()),
        st.lists(st.text(alphabet="v1AZaz09+/=é", max_size=20), max_size=6).map(":".join),
        st.text(alphabet="ABab09+/=", max_size=30).map(lambda tail: f"v1:{KEY.key_id}:AAAAAAAAAAAAAAAA:{tail}"),
    )
)
@example(f"{SEALED}\n")
@example("v1:00000000:AAAAAAAAAAAAAAAA:AAAA")
@example(f"v1:{KEY.key_id}:AAAAAAAAAAAAAAAA:A===")
def test_garbage_is_unreadable_and_nothing_worse(garbage: str) -> None:
    """No text makes the parser raise anything but the declared error."""
    assert_unreadable(garbage)


@pytest.mark.parametrize(
    "garbage", ["", "v1", "v2:0011aabb:AAAAAAAAAAAAAAAA:AAAA", f" v1:{KEY.key_id}:AAAAAAAAAAAAAAAA:AAAA", "plain-text"]
)
def test_what_no_vault_made_has_no_key_id(garbage: str) -> None:
    """The key id is read from whole ciphertexts only."""
    assert key_id_of(garbage) is None


def test_no_vault_neither_seals_nor_opens() -> None:
    """Without a master key both ways are refused, and the message says what to set."""
    vault: Vault = NoVault()

    with pytest.raises(CryptoUnavailableError, match="IRON_SECRETS_MASTER_KEY") as sealing:
        vault.seal(SECRET, record_id=RECORD)
    with pytest.raises(CryptoUnavailableError, match="IRON_SECRETS_MASTER_KEY") as opening:
        vault.open(SEALED, record_id=RECORD)

    assert SECRET not in everything_said_by(sealing.value)
    assert SEALED not in everything_said_by(opening.value)


def test_a_master_key_survives_being_written_down() -> None:
    """Base64 there and back is the same key with the same id, white space around it or not."""
    key = MasterKey.generate()

    read = MasterKey.from_base64(f" {key.to_base64()}\n")

    assert read == key
    assert read.key_id == key.key_id


def test_generated_keys_differ() -> None:
    """No two keys, nor their ids, are alike."""
    assert MasterKey.generate() != MasterKey.generate()


def test_a_key_id_is_stable() -> None:
    """Stored ciphertexts name keys by this id: it must never change."""
    assert KEY.key_id == "61b9f3b1"


def test_a_key_shows_its_id_but_never_itself() -> None:
    """Neither the key nor the vault that holds it appear in their own description."""
    shown = f"{KEY!r} {KEY} {VAULT!r} {vars(VAULT)!r}"

    assert KEY.key_id in shown
    assert repr(KEY.raw)[2:-1] not in shown
    assert KEY.raw.hex() not in shown
    assert KEY.to_base64() not in shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64 at all, but long enough to be!",
        base64.b64encode(bytes(31)).decode(),
        base64.b64encode(bytes(33)).decode(),
        base64.b64encode(bytes(range(32))).decode().rstrip("="),
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        bytes(range(32)).hex(),
        "é" * 44,
        "\ud800" * 44,
    ],
)
def test_a_malformed_master_key_refuses_to_start_without_being_repeated(text: str) -> None:
    """Only standard base64 of exactly 32 bytes is a key."""
    with pytest.raises(StartupError, match="IRON_SECRETS_MASTER_KEY") as refused:
        MasterKey.from_base64(text)

    assert text == "" or text not in everything_said_by(refused.value)


@given(st.text(alphabet=st.characters()))
def test_any_text_is_a_key_or_a_startup_error(text: str) -> None:
    """No environment variable makes reading the key raise anything else."""
    with pytest.raises(StartupError):
        MasterKey.from_base64(text)


def test_a_key_of_other_than_32_bytes_is_refused() -> None:
    """The length is checked wherever a key comes from."""
    with pytest.raises(StartupError):
        MasterKey(bytes(16))


def test_a_vault_says_which_key_seals_and_which_made_a_ciphertext() -> None:
    """A rotation asks both of it; where there is no key, none seals."""
    rotated: Vault = AesGcmVault(OTHER_KEY, previous=[KEY])

    assert (rotated.key_id, rotated.key_id_of(SEALED)) == (OTHER_KEY.key_id, KEY.key_id)
    assert (NoVault().key_id, NoVault().key_id_of(SEALED), NoVault().key_id_of("x")) == (None, KEY.key_id, None)

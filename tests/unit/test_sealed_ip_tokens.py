"""An IP token opens for the IC token, agent, lease and provider it was sealed for, and for nothing else."""

import base64
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_core.errors.tree import RefusalError
from ironcage_core.ports.secrecy import KeySealer
from ironcage_storage.sealed.ip_tokens import (
    IpTokenAlgorithmError,
    IpTokenAuthenticationError,
    IpTokenEncodingError,
    IpTokenError,
    IpTokenIvLengthError,
    IpTokenPartsError,
    IpTokenSealer,
    IpTokenTagLengthError,
    IpTokenTextError,
    open_ip_token,
)
from tests.support.errors import everything_said_by

IC_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJ0ZXN0IjoxfQ.c2lnbmF0dXJl"
LEASE = "lease_0190f3a1c4d27b8e9a5f001122334455"
AGENT = "agent_0190f3a1c4d27b8e9a5f665544332211"
SECRET = "sk-test-123"
# The vector of contract budget.md 4.2.
VECTOR_KEY = bytes.fromhex("41abe053a28bbeebf19e0e9c481bb7d7d3230d9a11461aee564e401e23a6bf04")
VECTOR = "AES256:AAECAwQFBgcICQoL:STkrA58RqOFjDQc=:/wlGX6FkVr20f5T/PkAoxA=="
IV, CIPHERTEXT, TAG = VECTOR.split(":")[1:]

ERRORS = (
    IpTokenPartsError,
    IpTokenAlgorithmError,
    IpTokenEncodingError,
    IpTokenIvLengthError,
    IpTokenTagLengthError,
    IpTokenAuthenticationError,
    IpTokenTextError,
)


def counting_iv(size: int) -> bytes:
    return bytes(range(size))


def open_it(
    ip_token: str, *, ic_token: str = IC_TOKEN, agent_id: str = AGENT, lease_id: str = LEASE, provider: str = "openai"
) -> str:
    return open_ip_token(ip_token, ic_token=ic_token, agent_id=agent_id, lease_id=lease_id, provider=provider)


def seal_it(secret: str, sealer: KeySealer) -> str:
    return sealer.seal(secret, ic_token=IC_TOKEN, agent_id=AGENT, lease_id=LEASE, provider="openai")


def sealed_bytes(plaintext: bytes) -> str:
    """Seal bytes that no sealer would, under the vector's key."""
    iv = counting_iv(12)
    sealed = AESGCM(VECTOR_KEY).encrypt(iv, plaintext, f"{AGENT}|{LEASE}|openai".encode())
    return ":".join(("AES256", *(base64.b64encode(part).decode() for part in (iv, sealed[:-16], sealed[-16:]))))


def test_the_contracts_vector_is_sealed_and_opened() -> None:
    """The bytes are those every other implementation makes."""
    sealed = seal_it(SECRET, IpTokenSealer(counting_iv))
    opened = open_it(VECTOR)

    assert sealed == VECTOR
    assert opened == SECRET


def test_the_contracts_key_is_the_one_derived() -> None:
    """A token made straight from the vector's key opens."""
    made_by_hand = sealed_bytes(SECRET.encode())

    assert made_by_hand == VECTOR


def test_a_prefix_of_the_ic_token_makes_no_difference() -> None:
    """One leading `ic_` is dropped on both sides."""
    sealed = IpTokenSealer(counting_iv).seal(
        SECRET, ic_token=f"ic_{IC_TOKEN}", agent_id=AGENT, lease_id=LEASE, provider="openai"
    )
    opened = open_it(VECTOR, ic_token=f"ic_{IC_TOKEN}")

    assert sealed == VECTOR
    assert opened == SECRET


@given(st.text())
@example("")
@example("sk-" + "x" * 497)
def test_what_was_sealed_opens(secret: str) -> None:
    """Any text comes back as it was."""
    opened = open_it(seal_it(secret, IpTokenSealer()))

    assert opened == secret


def test_two_seals_of_one_key_differ() -> None:
    """Each encryption draws an iv of its own."""
    one, other = (seal_it(SECRET, IpTokenSealer()).split(":") for _ in range(2))

    assert all(mine != its for mine, its in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize(
    "changed",
    [
        {"ic_token": IC_TOKEN[:-1] + "k"},
        {"ic_token": f"ic_ic_{IC_TOKEN}"},
        {"ic_token": "\ud800"},
        {"agent_id": LEASE.replace("lease", "agent")},
        {"lease_id": AGENT.replace("agent", "lease")},
        {"provider": "anthropic"},
        {"provider": ""},
    ],
)
def test_another_token_agent_lease_or_provider_opens_nothing(changed: dict[str, str]) -> None:
    """All four are bound to the ciphertext."""
    with pytest.raises(IpTokenAuthenticationError) as refused:
        open_it(VECTOR, **changed)

    said = everything_said_by(refused.value)
    assert all(secret not in said for secret in (SECRET, IC_TOKEN, VECTOR))


@pytest.mark.parametrize(
    ("ip_token", "error"),
    [
        ("", IpTokenPartsError),
        (VECTOR.removeprefix("AES256:"), IpTokenPartsError),
        (f"{VECTOR}:", IpTokenPartsError),
        (VECTOR.replace("AES256", "AES128"), IpTokenAlgorithmError),
        (VECTOR.replace("AES256", "aes256"), IpTokenAlgorithmError),
        (f" {VECTOR}", IpTokenAlgorithmError),
        (f"{VECTOR}\n", IpTokenEncodingError),
        (f"AES256:{IV}:{CIPHERTEXT.rstrip('=')}:{TAG}", IpTokenEncodingError),
        (f"AES256:{IV}:{CIPHERTEXT}=:{TAG}", IpTokenEncodingError),
        (f"AES256:{IV}:{CIPHERTEXT}:{TAG.replace('/', '_')}", IpTokenEncodingError),
        (f"AES256:{IV}:{CIPHERTEXT}:{TAG.replace('A==', 'B==')}", IpTokenEncodingError),
        (f"AES256:{IV}:é:{TAG}", IpTokenEncodingError),
        (f"AES256:{IV}:\ud800:{TAG}", IpTokenEncodingError),
        (f"AES256::{CIPHERTEXT}:{TAG}", IpTokenIvLengthError),
        (f"AES256:{IV}AAAA:{CIPHERTEXT}:{TAG}", IpTokenIvLengthError),
        (f"AES256:{IV}:{CIPHERTEXT}:", IpTokenTagLengthError),
        (f"AES256:{IV}:{CIPHERTEXT}:{IV}", IpTokenTagLengthError),
        (f"AES256:{IV}::{TAG}", IpTokenAuthenticationError),
        (f"AES256:{IV}:{CIPHERTEXT[:-4]}AAAA:{TAG}", IpTokenAuthenticationError),
        (f"AES256:{IV[:-1]}M:{CIPHERTEXT}:{TAG}", IpTokenAuthenticationError),
        (f"AES256:{IV}:{CIPHERTEXT}:A{TAG[1:]}", IpTokenAuthenticationError),
        (sealed_bytes(b"sk-\xff\xfe"), IpTokenTextError),
        (sealed_bytes("sk-\ud800".encode("utf-8", "surrogatepass")), IpTokenTextError),
    ],
)
def test_each_reason_to_refuse_is_an_error_of_its_own(ip_token: str, error: type[IpTokenError]) -> None:
    """The first thing wrong decides, and nothing of the token or its content is told."""
    with pytest.raises(IpTokenError) as refused:
        open_it(ip_token)

    assert type(refused.value) is error
    assert refused.value.__cause__ is refused.value.__context__ is None
    said = everything_said_by(refused.value)
    assert "sk-" not in said
    assert ip_token == "" or ip_token not in said


def test_the_error_codes_differ() -> None:
    """A program can tell the reasons apart, and catch them all as one."""
    codes = {error.code for error in ERRORS}

    assert len(codes) == len(ERRORS)
    assert all(issubclass(error, IpTokenError) for error in ERRORS)
    assert issubclass(IpTokenError, RefusalError)


BASE64 = st.one_of(st.binary(max_size=20).map(lambda raw: base64.b64encode(raw).decode()), st.text(max_size=24))


@given(
    st.one_of(
        st.text(alphabet=st.characters()),
        st.lists(BASE64, max_size=5).map(":".join),
        st.tuples(BASE64, BASE64, BASE64).map(lambda parts: ":".join(("AES256", *parts))),
        st.tuples(st.sampled_from([IV, "", "AAAA"]), BASE64, st.sampled_from([TAG, "", "AAAA"])).map(
            lambda parts: ":".join(("AES256", *parts))
        ),
    )
)
def test_any_text_is_refused_with_a_declared_error(garbage: str) -> None:
    """No input makes the decoder raise anything else."""
    with pytest.raises(IpTokenError) as refused:
        open_it(garbage)

    assert type(refused.value) in ERRORS


@given(st.integers(0, len(VECTOR) - 1), st.characters(codec="ascii"))
def test_no_character_of_a_token_can_be_changed(position: int, character: str) -> None:
    """One key has one spelling: every changed character is noticed."""
    altered = VECTOR[:position] + character + VECTOR[position + 1 :]

    if altered == VECTOR:
        assert open_it(altered) == SECRET
    else:
        with pytest.raises(IpTokenError):
            open_it(altered)


def test_opening_needs_neither_a_database_nor_a_web_framework() -> None:
    """A runtime that opens IP tokens loads no part of the server."""
    program = (
        "import sys, ironcage_storage.sealed.ip_tokens; "
        "print(sorted({'sqlite3', 'sqlite_utils', 'litestar', 'uvicorn', 'jwt', 'argon2'} & set(sys.modules)))"
    )

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603 - ours

    assert ran.stdout.strip() == "[]"

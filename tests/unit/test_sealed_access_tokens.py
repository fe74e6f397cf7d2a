"""Only a value that this key signed as an access token is one, and only until its expiry."""

import hashlib
import hmac
import json
from dataclasses import replace
from functools import partial
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_core.domain.ic_tokens import IcTokenClaims
from ironcage_core.domain.sessions import AccessClaims
from ironcage_core.domain.users import User, password_problem
from ironcage_core.errors.access import InvalidTokenError, TokenExpiredError, WrongTokenTypeError
from ironcage_core.errors.tree import CredentialError, StartupError
from ironcage_core.ports.secrecy import AccessSigner
from ironcage_storage.sealed.access_tokens import AccessTokenSigner, new_refresh_token
from ironcage_storage.sealed.tokens import IcTokenSigner
from tests.support import forging
from tests.support.errors import everything_said_by
from tests.support.forging import b64url

SECRET = "an access token secret, long enough"
OTHER_SECRET = "another access token secret, as long"
SIGNER = AccessTokenSigner(SECRET)
USER = "user_0190f3a1c4d27b8e9a5f665544332211"
SESSION = "sess_0190f3a1c4d27b8e9a5f665544332211"
ISSUED_AT = 1_790_000_000_000
EXPIRES_AT = ISSUED_AT + 900_000
CLAIMS = AccessClaims(
    user_id=USER,
    session_id=SESSION,
    gen=3,
    jti=f"{SESSION}.3",
    issued_at=ISSUED_AT,
    expires_at=EXPIRES_AT,
    email="ann@test",
    role="user",
)
VALUE = SIGNER.sign(CLAIMS)
PAYLOAD = {
    "iss": "ironcage",
    "aud": "ironcage-api",
    "typ": "access",
    "sub": USER,
    "sid": SESSION,
    "gen": 3,
    "jti": f"{SESSION}.3",
    "iat": ISSUED_AT // 1000,
    "exp": EXPIRES_AT // 1000,
    "email": "ann@test",
    "role": "user",
}
IC_CLAIMS = IcTokenClaims(
    token_id="ict_0190f3a1c4d27b8e9a5f001122334455",
    gen=1,
    agent_id="agent_0190f3a1c4d27b8e9a5f665544332211",
    budget_id="budget_0190f3a1c4d27b8e9a5f001122334466",
    permissions=("llm:call",),
    issued_at=ISSUED_AT,
    expires_at=None,
)


forge = partial(forging.forge, key=SECRET)
signed_as = partial(forging.signed_as, key=SECRET)


def assert_refused(
    value: str,
    error: type[CredentialError] = InvalidTokenError,
    *,
    signer: AccessSigner = SIGNER,
    now: int = ISSUED_AT,
) -> None:
    with pytest.raises(CredentialError) as refused:
        signer.prove(value, now=now)
    assert type(refused.value) is error
    assert refused.value.__cause__ is refused.value.__context__ is None
    said = everything_said_by(refused.value)
    assert SECRET not in said
    assert len(value) < 20 or value not in said


def test_a_signed_token_proves_its_claims() -> None:
    """What was signed comes back, and it says what the contract says, no more."""
    assert SIGNER.prove(VALUE, now=ISSUED_AT) == CLAIMS
    assert jwt.decode(VALUE, options={"verify_signature": False}) == PAYLOAD


def test_a_token_dies_at_the_very_millisecond_of_its_expiry() -> None:
    """One millisecond before it lives; the clock of the machine has no say."""
    assert SIGNER.prove(VALUE, now=EXPIRES_AT - 1) == CLAIMS
    assert SIGNER.prove(VALUE, now=0) == CLAIMS
    for now in (EXPIRES_AT, EXPIRES_AT + 1):
        assert_refused(VALUE, TokenExpiredError, now=now)
        with pytest.raises(TokenExpiredError) as expired:
            SIGNER.prove(VALUE, now=now)
        assert expired.value.details == {"expired_at": EXPIRES_AT}


def test_only_a_genuine_token_is_told_that_it_expired() -> None:
    """A foreign signature or a bad claim is merely invalid."""
    assert_refused(AccessTokenSigner(OTHER_SECRET).sign(CLAIMS), now=EXPIRES_AT)
    assert_refused(signed_as({**PAYLOAD, "sid": "sess_1"}), now=EXPIRES_AT)


def test_a_previous_secret_verifies_and_does_not_sign() -> None:
    """During a rotation tokens of before live on."""
    rotated = AccessTokenSigner(OTHER_SECRET, [SECRET])

    assert rotated.prove(VALUE, now=ISSUED_AT) == CLAIMS
    assert_refused(rotated.sign(CLAIMS))
    assert rotated.sign(CLAIMS) == AccessTokenSigner(OTHER_SECRET).sign(CLAIMS)


def test_another_key_proves_nothing() -> None:
    """A token of another installation is refused."""
    assert_refused(AccessTokenSigner(OTHER_SECRET).sign(CLAIMS))


@pytest.mark.parametrize("alg", ["none", "None", "HS384", "HS512", "RS256", "", None, 1, ["HS256"]])
def test_no_other_algorithm_is_accepted(alg: object) -> None:
    """Neither unsigned nor with our signature under another name."""
    header, payload = json.dumps({"alg": alg}).encode(), json.dumps(PAYLOAD).encode()

    assert_refused(forge(header, payload))
    assert_refused(f"{b64url(header)}.{b64url(payload)}.")


def test_a_token_of_another_kind_is_told_apart_where_that_is_known() -> None:
    """An IC token of another key is unknown; what our key signed or what is opaque by its looks is another kind."""
    assert_refused(IcTokenSigner(OTHER_SECRET).sign(IC_CLAIMS))
    assert_refused(IcTokenSigner(SECRET).sign(IC_CLAIMS), WrongTokenTypeError)
    assert_refused(signed_as({**PAYLOAD, "typ": "refresh"}), WrongTokenTypeError)
    assert_refused(new_refresh_token(), WrongTokenTypeError)
    assert_refused("at_" + "x" * 43, WrongTokenTypeError)
    assert_refused("rt_" + "x" * 42)
    assert_refused("rt_" + "x" * 43 + "\n")


@pytest.mark.parametrize("name", sorted(PAYLOAD))
def test_every_claim_is_needed_and_has_its_type(name: str) -> None:
    """Missing, null, or of another type or kind."""
    assert_refused(signed_as({key: value for key, value in PAYLOAD.items() if key != name}))
    wrong: list[object] = [None, True, [PAYLOAD[name]], {}, 1.5, -1]
    for bad in wrong:
        assert_refused(signed_as({**PAYLOAD, name: bad}))
    if name != "typ":
        assert_refused(signed_as({**PAYLOAD, name: 7 if isinstance(PAYLOAD[name], str) else "7"}))
        assert_refused(signed_as({**PAYLOAD, name: ""}))


@pytest.mark.parametrize(
    "change", [{"iss": "other"}, {"aud": "ironcage-agent"}, {"aud": ["ironcage-api"]}, {"sub": SESSION}, {"sid": USER}]
)
def test_a_claim_of_somebody_else_is_refused(change: dict[str, object]) -> None:
    """Issuer, audience and the kinds of ids are ours."""
    assert_refused(signed_as({**PAYLOAD, **change}))


@given(st.integers(0, len(VALUE) - 1), st.characters())
@example(len(VALUE) - 1, "\n")
def test_no_character_of_a_value_can_be_changed(position: int, character: str) -> None:
    """One signature has one spelling, its spare bits included."""
    altered = VALUE[:position] + character + VALUE[position + 1 :]

    if altered == VALUE:
        assert SIGNER.prove(altered, now=ISSUED_AT) == CLAIMS
    else:
        assert_refused(altered)


@given(
    st.one_of(st.text(alphabet=st.characters()), st.lists(st.binary(max_size=40).map(b64url), max_size=5).map(".".join))
)
@example("")
@example("..")
@example(f"{VALUE}=")
@example("\ud800" * 3)
@example("x" * 100_000)
@example(forge(b'{"alg":"HS256"}', b"[" * 1000))
@example(forge(b'{"alg":"HS256"}', b"null"))
@example(forge(b'{"alg":"HS256"}', b"\xff"))
def test_any_text_is_refused_as_an_invalid_token(garbage: str) -> None:
    """No input makes the parser raise anything else."""
    assert_refused(garbage)


@given(st.dictionaries(st.sampled_from(sorted(PAYLOAD)), st.none() | st.integers() | st.text() | st.floats()))
def test_any_signed_claims_are_proven_or_refused(changed: dict[str, Any]) -> None:
    """Whatever a holder of the key signs, the answer is claims or a declared error."""
    try:
        claims: AccessClaims | None = SIGNER.prove(signed_as({**PAYLOAD, **changed}), now=ISSUED_AT)
    except CredentialError:
        claims = None

    assert claims is None or claims.user_id == USER


@pytest.mark.parametrize("secret", ["", "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"])
def test_an_unusable_secret_stops_the_start(secret: str) -> None:
    """Also as a previous one; the message does not show it."""
    for secrets in ((secret, []), (SECRET, [secret])):
        with pytest.raises(StartupError) as refusal:
            AccessTokenSigner(*secrets)
        assert not secret or secret not in str(refusal.value)


def test_a_short_secret_signs_as_any_hs256_does() -> None:
    """The settings decide where a weak secret may be used; the value is the one everybody computes."""
    short = "dev-secret-change-in-production"
    value = AccessTokenSigner(short).sign(replace(CLAIMS, gen=1))
    signed, _, signature = value.rpartition(".")

    assert signature == b64url(hmac.digest(short.encode(), signed.encode(), "sha256"))


def test_a_refresh_token_is_random_text_and_stored_as_its_hash() -> None:
    """`rt_` and 32 bytes; lower-case hex SHA-256 of all of it, whatever it is."""
    first, second = new_refresh_token(), new_refresh_token()

    assert first != second
    assert len(first) == len("rt_") + 43
    assert SIGNER.digest(first) == hashlib.sha256(first.encode()).hexdigest()
    assert len(SIGNER.digest("\ud800")) == 64


BAD_PASSWORDS = [7, "", "1234567", "x" * 1001, " \t" * 4, "with\0 a nul", "Bob.Smith", "BOB@Test.Example"]


@pytest.mark.parametrize("password", BAD_PASSWORDS)
def test_a_bad_password_has_a_problem(password: object) -> None:
    """Length, whitespace, NUL, or a name everybody knows."""
    assert password_problem(password, username="bob.smith", email="bob@test.example")


@pytest.mark.parametrize("password", ["12345678", "x" * 1000, " bob.smith", "line\nbreak", "пароль-пароль"])
def test_any_other_password_is_fine(password: str) -> None:
    """No rules of composition, nothing is trimmed."""
    assert password_problem(password, username="bob.smith", email="bob@test.example") is None
    assert password_problem("123456789", username="b", email="b@c", shortest=10) is not None


def test_a_user_does_not_show_its_hash() -> None:
    """Neither on a console nor in a log."""
    user = User(USER, "ann", "ann@test", "user", "active", 1, 1, password_hash="$argon2id$secret")

    assert "argon2" not in repr(user)
    assert "username='ann'" in repr(user)

"""Only a value that this key signed, with claims that agree, is a token; every failure but expiry looks the same."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_core.domain.ic_tokens import DEFAULT_PERMISSIONS, KNOWN_PERMISSIONS, IcTokenClaims
from ironcage_core.errors.access import InvalidTokenError, TokenExpiredError
from ironcage_core.errors.tree import CredentialError, StartupError
from ironcage_core.ports.secrecy import TokenSigner
from ironcage_storage.sealed.tokens import IcTokenSigner, hash_token
from tests.support import forging
from tests.support.errors import everything_said_by
from tests.support.forging import b64url

SECRET = "an IC token secret of enough characters"
OTHER_SECRET = "another IC token secret, long enough too"
SIGNER = IcTokenSigner(SECRET)
AGENT = "agent_0190f3a1c4d27b8e9a5f665544332211"
OTHER_AGENT = "agent_0190f3a1c4d27b8e9a5f665544332212"
ISSUED_AT = 1_790_000_000_000
EXPIRES_AT = ISSUED_AT + 3_600_000
CLAIMS = IcTokenClaims(
    token_id="ict_0190f3a1c4d27b8e9a5f001122334455",
    gen=1,
    agent_id=AGENT,
    budget_id="budget_0190f3a1c4d27b8e9a5f001122334466",
    permissions=DEFAULT_PERMISSIONS,
    issued_at=ISSUED_AT,
    expires_at=EXPIRES_AT,
)

VALUE = SIGNER.sign(CLAIMS)

Payload = dict[str, Any]


def payload_of(value: str) -> Payload:
    payload: Payload = jwt.decode(value, options={"verify_signature": False})
    return payload


forge = partial(forging.forge, key=SECRET)
signed_as = partial(forging.signed_as, key=SECRET)


def assert_refused(
    value: str,
    error: type[InvalidTokenError | TokenExpiredError] = InvalidTokenError,
    *,
    signer: TokenSigner = SIGNER,
    now: int = ISSUED_AT,
) -> None:
    with pytest.raises(CredentialError) as refused:
        signer.prove(value, now=now)
    assert type(refused.value) is error
    assert refused.value.message == error().message
    assert refused.value.__cause__ is refused.value.__context__ is None
    said = everything_said_by(refused.value)
    assert SECRET not in said
    assert len(value) < 20 or value not in said


# --- what a token says -------------------------------------------------------


@pytest.mark.parametrize("expires_at", [EXPIRES_AT, None])
def test_a_signed_token_proves_its_claims(expires_at: int | None) -> None:
    """What was signed comes back, with the hash that is stored of it."""
    claims = replace(CLAIMS, expires_at=expires_at)
    value = SIGNER.sign(claims)

    presented = SIGNER.prove(value, now=ISSUED_AT)

    assert presented.claims == claims
    assert presented.value == value
    assert presented.value_hash == SIGNER.digest(value) == hashlib.sha256(value.encode()).hexdigest()
    assert value not in repr(presented)


def test_a_token_says_everything_protocol_and_registry_name() -> None:
    """The names of protocol 005 and the registered ones stand side by side."""
    assert payload_of(VALUE) == {
        "agent_id": AGENT,
        "budget_id": CLAIMS.budget_id,
        "issued_at": ISSUED_AT // 1000,
        "expires_at": EXPIRES_AT // 1000,
        "issuer": "iron-control-panel",
        "permissions": ["llm:call", "analytics:write"],
        "iss": "iron-control-panel",
        "sub": AGENT,
        "iat": ISSUED_AT // 1000,
        "exp": EXPIRES_AT // 1000,
        "jti": CLAIMS.token_id,
        "gen": 1,
        "typ": "ic",
        "aud": "ironcage-agent",
    }


def test_a_token_without_an_end_says_null_and_has_no_exp() -> None:
    """A registered `exp` may not be null."""
    payload = payload_of(SIGNER.sign(replace(CLAIMS, expires_at=None)))

    assert payload["expires_at"] is None
    assert "exp" not in payload


def test_two_generations_of_one_second_differ() -> None:
    """Regenerating at once still makes another value."""
    assert SIGNER.sign(CLAIMS) != SIGNER.sign(replace(CLAIMS, gen=2))


def test_one_leading_prefix_is_dropped() -> None:
    """`ic_` before the value changes nothing, also of its hash."""
    presented = SIGNER.prove(f"ic_{VALUE}", now=ISSUED_AT)

    assert presented == SIGNER.prove(VALUE, now=ISSUED_AT)
    assert SIGNER.digest(f"ic_{VALUE}") == SIGNER.digest(VALUE) == presented.value_hash


def test_a_second_prefix_is_not_dropped_even_when_the_value_is_remembered() -> None:
    """Only one leading `ic_` is ours."""
    SIGNER.prove(VALUE, now=ISSUED_AT)

    assert_refused(f"ic_ic_{VALUE}")


def test_unknown_and_repeated_claims_are_no_matter() -> None:
    """A newer server may say more; of a repeated name the last counts."""
    more = {**payload_of(VALUE), "nbf": 9_999_999_999, "colour": ["red"]}
    repeated = json.dumps(more).replace('"gen": 1', '"gen": 0, "gen": 1')

    presented = SIGNER.prove(forge(b'{"typ":"JWT","alg":"HS256"}', repeated.encode()), now=ISSUED_AT)

    assert presented.claims == CLAIMS


# --- time --------------------------------------------------------------------


def test_a_token_dies_at_the_very_millisecond_of_its_expiry() -> None:
    """One millisecond before it lives, at it and after it is expired."""
    presented = SIGNER.prove(VALUE, now=EXPIRES_AT - 1)

    assert presented.claims == CLAIMS
    assert_refused(VALUE, TokenExpiredError, now=EXPIRES_AT)
    assert_refused(VALUE, TokenExpiredError, now=EXPIRES_AT + 1)


def test_expiry_is_judged_anew_for_a_remembered_value() -> None:
    """What was proven while it lived is expired later, and the other way round for a clock set back."""
    signer = IcTokenSigner(SECRET)
    signer.prove(VALUE, now=ISSUED_AT)

    assert_refused(VALUE, TokenExpiredError, signer=signer, now=EXPIRES_AT)
    assert signer.prove(VALUE, now=ISSUED_AT).claims == CLAIMS


def test_a_token_without_an_end_never_expires() -> None:
    """Null means until replaced or revoked."""
    value = SIGNER.sign(replace(CLAIMS, expires_at=None))

    assert SIGNER.prove(value, now=2**62).claims.expires_at is None


def test_only_a_genuine_token_is_told_that_it_expired() -> None:
    """An expired value with a foreign signature or with claims that disagree is merely invalid."""
    swapped = signed_as({**payload_of(VALUE), "sub": OTHER_AGENT})

    assert_refused(IcTokenSigner(OTHER_SECRET).sign(CLAIMS), now=EXPIRES_AT)
    assert_refused(swapped, now=EXPIRES_AT)


# --- keys and algorithms -----------------------------------------------------


def test_another_key_proves_nothing() -> None:
    """A token of another installation is refused."""
    assert_refused(IcTokenSigner(OTHER_SECRET).sign(CLAIMS))


def test_a_previous_secret_verifies_but_does_not_sign() -> None:
    """After a rotation old tokens live on and new ones are signed with the new secret."""
    rotated = IcTokenSigner(OTHER_SECRET, previous=[SECRET])

    proven = rotated.prove(VALUE, now=ISSUED_AT)
    signed_anew = rotated.sign(CLAIMS)

    assert proven.claims == CLAIMS
    assert IcTokenSigner(OTHER_SECRET).prove(signed_anew, now=ISSUED_AT).claims == CLAIMS
    assert_refused(signed_anew)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "hs256", "HS384", "HS512", "RS256", "ES256"])
def test_any_other_algorithm_is_refused(algorithm: str) -> None:
    """What the header claims never chooses how the signature is checked."""
    header = json.dumps({"alg": algorithm, "typ": "JWT"}).encode()
    payload = json.dumps(payload_of(VALUE)).encode()

    assert_refused(forge(header, payload))
    assert_refused(forge(header, payload).rpartition(".")[0] + ".")


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_a_longer_hash_of_the_right_key_is_refused(algorithm: str) -> None:
    """HS256 is pinned, stronger relatives included."""
    key = SECRET * 2

    value = jwt.encode(payload_of(VALUE), key, algorithm=algorithm)

    assert_refused(value, signer=IcTokenSigner(key))


def test_a_public_key_cannot_be_mistaken_for_the_secret() -> None:
    """A token signed with RS256 is refused, and a public key is no secret to start with."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    with pytest.raises(StartupError) as refused:
        IcTokenSigner(public.decode())

    assert public.decode() not in everything_said_by(refused.value)
    assert_refused(jwt.encode(payload_of(VALUE), private, algorithm="RS256"))
    assert_refused(forge(b'{"alg":"HS256"}', json.dumps(payload_of(VALUE)).encode(), key=public.decode()))


@pytest.mark.parametrize("secret", ["", "x" * 31, "ü" * 31])
def test_a_short_secret_refuses_to_start_without_being_repeated(secret: str) -> None:
    """Thirty-two characters at least, of previous secrets too."""
    with pytest.raises(StartupError) as as_current:
        IcTokenSigner(secret)
    with pytest.raises(StartupError) as as_previous:
        IcTokenSigner(SECRET, previous=[secret])

    assert secret == "" or secret not in everything_said_by(as_current.value) + everything_said_by(as_previous.value)


def test_a_signer_does_not_show_its_secret() -> None:
    """The secret is not in the signer's description."""
    assert SECRET not in f"{SIGNER!r} {SIGNER}"


# --- claims ------------------------------------------------------------------


def without(name: str) -> Callable[[Payload], Payload]:
    return lambda payload: {key: value for key, value in payload.items() if key != name}


def having(**changed: object) -> Callable[[Payload], Payload]:
    return lambda payload: {**payload, **changed}


SECOND = ISSUED_AT // 1000

BAD_CLAIMS = [
    *[without(name) for name in payload_of(VALUE)],
    *[having(**{name: None}) for name in payload_of(VALUE)],
    *[having(**{name: [value]}) for name, value in payload_of(VALUE).items()],
    *[having(**{name: {}}) for name in payload_of(VALUE)],
    having(typ="access"),
    having(aud="ironcage-api"),
    having(aud=["ironcage-agent"]),
    having(iss="ironcage"),
    having(issuer="ironcage"),
    having(iss="ironcage", issuer="ironcage"),
    having(sub=OTHER_AGENT),
    having(agent_id=OTHER_AGENT),
    having(agent_id="agent_1", sub="agent_1"),
    having(agent_id=AGENT.upper(), sub=AGENT.upper()),
    having(agent_id=f"{AGENT}\n", sub=f"{AGENT}\n"),
    having(agent_id=1, sub=1),
    having(budget_id=AGENT),
    having(jti="tok_0190f3a1c4d27b8e9a5f001122334455"),
    having(jti="\ud800"),
    having(gen=True),
    having(gen=1.0),
    having(gen="1"),
    having(gen=-1),
    having(iat=SECOND + 1),
    having(iat=float(SECOND)),
    having(iat=float(SECOND), issued_at=float(SECOND)),
    having(iat=True, issued_at=True),
    having(iat=str(SECOND), issued_at=str(SECOND)),
    having(iat=-1, issued_at=-1),
    having(exp=SECOND + 7200),
    having(exp=float("inf"), expires_at=float("inf")),
    having(exp=float("nan"), expires_at=float("nan")),
    having(exp=1e12, expires_at=1e12),
    having(exp=True, expires_at=True),
    having(exp="9999999999", expires_at="9999999999"),
    having(exp=None, expires_at=None),
    having(permissions="llm:call"),
    having(permissions=["llm:call", "everything"]),
    having(permissions=["llm:call", 1]),
    having(permissions=[None]),
    having(permissions={"llm:call": True}),
]


@pytest.mark.parametrize("spoil", BAD_CLAIMS)
def test_a_signed_token_with_claims_that_break_a_rule_is_invalid(spoil: Callable[[Payload], Payload]) -> None:
    """Each claim is needed, has its exact type, and agrees with its mirror."""
    assert_refused(signed_as(spoil(payload_of(VALUE))))


@pytest.mark.parametrize(
    "payload", [b"", b"null", b"[]", b'"text"', b"{", b"\xff", b"[" * 1000, b"1" * 1000, b'{"a":' * 200]
)
def test_a_signed_payload_that_is_no_object_is_invalid(payload: bytes) -> None:
    """A right signature does not make a claim set of it."""
    assert_refused(forge(b'{"alg":"HS256"}', payload))


@pytest.mark.parametrize("permissions", [(), KNOWN_PERMISSIONS, ("data:read",)])
def test_any_known_permissions_are_proven(permissions: tuple[str, ...]) -> None:
    """None, one or all of the vocabulary."""
    value = SIGNER.sign(replace(CLAIMS, permissions=permissions))

    assert SIGNER.prove(value, now=ISSUED_AT).claims.permissions == permissions


# --- form --------------------------------------------------------------------


def test_a_value_may_have_2000_characters_and_no_more() -> None:
    """The limit counts what is left without the prefix."""
    base = payload_of(VALUE)
    by_length = {len(value): value for fill in range(1200) for value in [signed_as({**base, "fill": "x" * fill})]}

    longest = max(length for length in by_length if length <= 2000)
    shortest_beyond = min(length for length in by_length if length > 2000)

    assert longest >= 1999
    assert SIGNER.prove(f"ic_{by_length[longest]}", now=ISSUED_AT).claims == CLAIMS
    assert_refused(by_length[shortest_beyond])


@given(st.integers(0, len(VALUE) - 1), st.characters())
@example(len(VALUE) - 1, "\n")
def test_no_character_of_a_value_can_be_changed(position: int, character: str) -> None:
    """One signature has one spelling, its spare bits included."""
    altered = VALUE[:position] + character + VALUE[position + 1 :]

    if altered == VALUE:
        assert SIGNER.prove(altered, now=ISSUED_AT).claims == CLAIMS
    else:
        assert_refused(altered)


def test_the_spare_bits_of_a_signature_must_be_clear() -> None:
    """All other last digits that decode to the same signature are refused."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    accepted = []
    for digit in digits:
        try:
            SIGNER.prove(VALUE[:-1] + digit, now=ISSUED_AT)
        except InvalidTokenError:
            continue
        accepted.append(digit)

    assert accepted == [VALUE[-1]]


def test_a_padded_signature_is_refused() -> None:
    """A signature has one spelling, the one without padding."""
    padded = f"{VALUE}="

    assert len(SIGNATURE) % 4 == 3
    assert_refused(padded)


SIGNATURE = VALUE.rpartition(".")[2]


@given(
    st.one_of(
        st.text(alphabet=st.characters()),
        st.text(alphabet="eyJ._-AZ09=ic", max_size=80),
        st.lists(st.binary(max_size=40).map(b64url), max_size=5).map(".".join),
        st.tuples(st.binary(max_size=40).map(b64url), st.just("e30"), st.just(SIGNATURE)).map(".".join),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=6),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["alg", "crit", "b64"]), inner),
            max_leaves=6,
        ).map(lambda header: f"{b64url(json.dumps(header).encode())}.e30.{SIGNATURE}"),
    )
)
@example("")
@example("ic_")
@example("..")
@example(f"ic_{VALUE}=")
@example(f"{VALUE}.{VALUE}")
@example(f"{b64url(b'[' * 1400)}.e30.{SIGNATURE}")
@example(f"{b64url(b'9' * 1400)}.e30.{SIGNATURE}")
@example(f"{b64url(json.dumps({'alg': ['HS256']}).encode())}.e30.{SIGNATURE}")
@example(f"{b64url(json.dumps({'alg': 'HS256', 'crit': ['b64'], 'b64': False}).encode())}.e30.{SIGNATURE}")
@example("\ud800" * 3)
@example("x" * 100_000)
def test_any_text_is_refused_as_an_invalid_token(garbage: str) -> None:
    """No input makes the parser raise anything else."""
    assert_refused(garbage)


@given(st.dictionaries(st.sampled_from(sorted(payload_of(VALUE))), st.none() | st.integers() | st.text() | st.floats()))
def test_any_signed_claims_are_proven_or_refused(changed: Payload) -> None:
    """Whatever a holder of the key signs, the answer is claims or a declared error."""
    value = signed_as({**payload_of(VALUE), **changed})

    try:
        claims: IcTokenClaims | None = SIGNER.prove(value, now=ISSUED_AT).claims
    except CredentialError:
        claims = None

    assert claims is None or claims.agent_id == AGENT


# --- memory ------------------------------------------------------------------


def test_what_is_remembered_is_bounded_and_holds_no_value() -> None:
    """The least recently used claims go first, and only hashes name them."""
    signer = IcTokenSigner(SECRET, remembered=2)
    first, second, third = (signer.sign(replace(CLAIMS, gen=gen)) for gen in (1, 2, 3))

    for value in (first, second, first, third):
        signer.prove(value, now=ISSUED_AT)

    assert list(signer._proven._claims) == [hash_token(first), hash_token(third)]


def test_a_refused_value_is_not_remembered() -> None:
    """Garbage cannot push genuine tokens out."""
    signer = IcTokenSigner(SECRET)

    for gen in range(5):
        assert_refused(IcTokenSigner(OTHER_SECRET).sign(replace(CLAIMS, gen=gen)), signer=signer)

    assert not signer._proven._claims


def test_threads_share_a_signer_that_remembers_little() -> None:
    """Values pushed out by one thread while another asks for them are proven again."""
    signer = IcTokenSigner(SECRET, remembered=2)
    values = {gen: signer.sign(replace(CLAIMS, gen=gen)) for gen in range(1, 6)}
    seen: list[bool] = []

    def prove_all() -> None:
        for gen, value in list(values.items()) * 20:
            seen.append(signer.prove(value, now=ISSUED_AT).claims.gen == gen)

    threads = [threading.Thread(target=prove_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [True] * 400
    assert len(signer._proven._claims) == 2

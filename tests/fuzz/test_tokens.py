"""Tokens that somebody made up or altered prove nothing, whatever they look like, and are refused in the one way."""

import base64
import hmac
import json
import re
from dataclasses import replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_core.domain.ic_tokens import DEFAULT_PERMISSIONS, IcTokenClaims
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.sessions import AccessClaims
from ironcage_core.errors.access import InvalidTokenError, TokenExpiredError, WrongTokenTypeError
from ironcage_core.errors.tree import RefusalError
from ironcage_http.credentials import Presented, presented
from ironcage_http.feed_auth import presented_at_upgrade, presented_in_message, query_of
from ironcage_storage.sealed.access_tokens import AccessTokenSigner, new_refresh_token
from ironcage_storage.sealed.api_tokens import api_token_hash
from ironcage_storage.sealed.tokens import IcTokenSigner
from tests.fuzz.alterations import altered, values
from tests.fuzz.effort import examples
from tests.fuzz.refusals import assert_hides
from tests.support.forging import b64url, forge

KEY, OTHER_KEY = "a secret of enough characters to sign", "another secret of enough characters"
NOW = 1_790_000_000_000
IC = IcTokenClaims(
    token_id=f"ict_{'1' * 32}",
    gen=1,
    agent_id=f"agent_{'a' * 32}",
    budget_id=f"budget_{'b' * 32}",
    permissions=DEFAULT_PERMISSIONS,
    issued_at=NOW,
    expires_at=NOW + 3_600_000,
)
ACCESS = AccessClaims(
    user_id=f"user_{'2' * 32}",
    session_id=f"sess_{'3' * 32}",
    gen=3,
    jti="j",
    issued_at=NOW,
    expires_at=NOW + 900_000,
    email="ann@test",
    role="user",
)
OTHER_IC = replace(IC, agent_id=f"agent_{'c' * 32}", gen=2)
OTHER_ACCESS = replace(ACCESS, role="admin", gen=9)
IC_VALUES = {IcTokenSigner(KEY).sign(each): each for each in (IC, OTHER_IC)}
ACCESS_VALUES = {AccessTokenSigner(KEY).sign(each): each for each in (ACCESS, OTHER_ACCESS)}
STRANGERS = (IcTokenSigner(OTHER_KEY).sign(IC), AccessTokenSigner(OTHER_KEY).sign(ACCESS))
IC_VALUE, ACCESS_VALUE = next(iter(IC_VALUES)), next(iter(ACCESS_VALUES))
EVERY = (*IC_VALUES, *ACCESS_VALUES, *STRANGERS)
API_TOKEN = "at_" + "aB3_-" * 8 + "xyz"

Signer = IcTokenSigner | AccessTokenSigner
SIGNERS = [IcTokenSigner, AccessTokenSigner]


def claims_of(kind: type[Signer], value: str, signer: Signer | None = None) -> IcTokenClaims | AccessClaims | None:
    """Return what a value proves, None for nothing; a refusal is a declared one and tells nothing."""
    used: Any = signer or kind(KEY)
    try:
        found = used.prove(value, now=NOW)
    except (InvalidTokenError, TokenExpiredError, WrongTokenTypeError) as refused:
        assert_hides(refused, KEY, *value.split("."))
        return None
    claims: IcTokenClaims | AccessClaims = found if kind is AccessTokenSigner else found.claims
    return claims


@examples(100)
@given(altered(*EVERY))
def test_no_altered_token_proves_what_was_not_signed(value: str) -> None:
    """One signature has one value: neither cut, spliced, respelled nor of another kind does it prove a thing."""
    assert claims_of(IcTokenSigner, value) == IC_VALUES.get(value.removeprefix("ic_"))
    assert claims_of(AccessTokenSigner, value) == ACCESS_VALUES.get(value)


@examples(40)
@given(altered(*EVERY))
@example(IC_VALUE[:-1] + chr(ord(IC_VALUE[-1]) + 1))  # which differs in bits that a decoder drops
@example(ACCESS_VALUE[:-1] + chr(ord(ACCESS_VALUE[-1]) + 1))
def test_what_is_remembered_of_a_token_lends_nothing_to_one_like_it(value: str) -> None:
    """The memory of proven values answers for these alone."""
    ic, access = IcTokenSigner(KEY), AccessTokenSigner(KEY)
    for each in IC_VALUES:
        ic.prove(each, now=NOW)
    for each in ACCESS_VALUES:
        access.prove(each, now=NOW)

    assert claims_of(IcTokenSigner, value, ic) == IC_VALUES.get(value.removeprefix("ic_"))
    assert claims_of(AccessTokenSigner, value, access) == ACCESS_VALUES.get(value)


ALGORITHMS = st.sampled_from(
    [
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        "HS384",
        "HS512",
        "RS256",
        "ES256",
        "PS256",
        "EdDSA",
        "hs256",
        "HS256 ",
        "HS256",
    ]
).map(json.dumps) | values(st.just("alg"))
HEADERS = st.fixed_dictionaries(
    {"alg": ALGORITHMS},
    optional={
        name: values(st.just("k"))
        for name in ("typ", "kid", "jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc", "cty")
    },
).map(
    lambda header: ("{" + ",".join(f'"{name}":{value}' for name, value in header.items()) + "}").encode(
        "utf-8", "replace"
    )
)


@examples(50)
@given(kind=st.sampled_from(SIGNERS), header=HEADERS, secret=st.sampled_from(["", OTHER_KEY, "secret", None, "none"]))
@example(kind=IcTokenSigner, header=b'{"alg":"none"}', secret=None)
@example(kind=AccessTokenSigner, header=b'{"alg":"none"}', secret=None)
@example(kind=AccessTokenSigner, header=b'{"alg":"HS256"}', secret="")
@example(kind=AccessTokenSigner, header=b"[" * 1400, secret=None)
def test_no_header_makes_a_signature_needless(kind: type[Signer], header: bytes, secret: str | None) -> None:
    """Not `none`, no other algorithm, no key of the caller's own choice; nor is the signature of a real one enough."""
    _, payload, signature = (IC_VALUE if kind is IcTokenSigner else ACCESS_VALUE).split(".")
    begun = f"{b64url(header)}.{payload}"
    signed = "" if secret is None else b64url(hmac.digest(secret.encode(), begun.encode(), "sha256"))

    assert claims_of(kind, f"{begun}.{signed}") is None
    assert claims_of(kind, f"{begun}.{signature}") is None or header == b'{"alg":"HS256","typ":"JWT"}'


NAMES = st.sampled_from(
    ["iss", "aud", "typ", "sub", "sid", "gen", "jti", "iat", "exp", "email", "role", "agent_id", "budget_id", "issuer",
     "permissions", "issued_at", "expires_at"]
)  # fmt: skip


@st.composite
def payloads(draw: st.DrawFn) -> tuple[type[Signer], bytes]:
    """Draw the payload of a token with other claims, some of them twice."""
    kind = draw(st.sampled_from(SIGNERS))
    value = IC_VALUE if kind is IcTokenSigner else ACCESS_VALUE
    said = json.loads(_decoded(value.split(".")[1]))
    members = [f"{json.dumps(name)}:{json.dumps(each)}" for name, each in said.items()]
    for _ in range(draw(st.integers(0, 3))):
        changed = f"{json.dumps(draw(NAMES))}:{draw(values(NAMES))}"
        members.insert(draw(st.integers(0, len(members))), changed)
    text = "{" + ",".join(members) + "}"
    return kind, text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])), "surrogatepass")


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@examples(40)
@given(payloads())
@example((AccessTokenSigner, _decoded(ACCESS_VALUE.split(".")[1])[:-1] + b',"gen":1.5}'))
def test_whatever_the_key_itself_has_signed_is_sound_or_refused(drawn: tuple[type[Signer], bytes]) -> None:
    """No payload raises anything else, and no claim has a type that it must not have."""
    kind, payload = drawn

    claims = claims_of(kind, forge(b'{"alg":"HS256"}', payload, key=KEY))

    if isinstance(claims, IcTokenClaims):
        assert is_id(claims.agent_id, "agent")
        assert is_id(claims.token_id, "ict")
        assert all(type(each) is str for each in claims.permissions)
    elif claims is not None:
        assert is_id(claims.user_id, "user")
        assert all(type(each) is str and each for each in (claims.email, claims.role, claims.jti))
    if claims is not None:
        assert all(type(each) is int and each >= 0 for each in (claims.gen, claims.issued_at, claims.expires_at))


@examples(100)
@given(altered(API_TOKEN, new_refresh_token(), ACCESS_VALUE, joint="_"))
def test_an_altered_api_token_is_another_one_or_none(value: str) -> None:
    """Its hash is that of the whole value, and other forms have none."""
    value_hash = api_token_hash(value)

    assert value_hash is None or (len(value) == 46 and value.isascii())
    assert (value_hash == api_token_hash(API_TOKEN)) == (value == API_TOKEN)


# --- what carries them -----------------------------------------------------------------------------------------------

CREDENTIALS = st.one_of(
    altered(*EVERY, API_TOKEN),
    altered(*(f"Bearer {each}" for each in (*EVERY, API_TOKEN))),
    st.lists(altered(*(f"bearer {each}" for each in (*EVERY, API_TOKEN)), joint=" "), max_size=3).map(", ".join),
    values(NAMES).map(lambda text: f"Bearer e30.{b64url(text.encode('utf-8', 'replace'))}.x"),
)
HEADER_NAMES = ("authorization", "x-api-token", "x-ic-token", "sec-websocket-protocol")
CARRIED = st.dictionaries(st.sampled_from(HEADER_NAMES), CREDENTIALS)


def parts_of(*secrets: str) -> list[str]:
    return [part for secret in secrets for part in re.split(r"[ .,]", secret)]


def assert_is_hidden(found: Presented) -> None:
    assert type(found) is Presented
    assert repr(found) == "Presented()"
    assert all(each is None or each == each.strip() for each in (found.ic, found.session, found.api, found.refresh))


@examples(40)
@given(CARRIED, st.none() | CREDENTIALS)
@example({"authorization": f"Bearer x.{b64url(b'[' * 50_000)}.x"}, None)
@example({"authorization": f"Bearer x.{b64url(b'9' * 5_000)}.x"}, None)
def test_headers_carry_one_credential_of_a_kind_or_are_refused(headers: dict[str, str], in_body: str | None) -> None:
    """Whatever else they say; what is shown of credentials is nothing."""
    try:
        found = presented(headers, in_body)
    except RefusalError as refused:
        assert_hides(refused, *parts_of(*headers.values(), in_body or ""))
    else:
        assert_is_hidden(found)


@examples(30)
@given(
    CARRIED, st.lists(CREDENTIALS.map("bearer.{}".format), max_size=3), st.binary(max_size=60) | st.sampled_from(EVERY)
)
def test_a_handshake_carries_one_credential_none_or_is_refused(
    headers: dict[str, str], subprotocols: list[str], token: bytes | str
) -> None:
    """In headers, subprotocols and the query alike."""
    raw = b"token=" + (token if isinstance(token, bytes) else token.encode())
    try:
        found = presented_at_upgrade(headers, subprotocols, query_of(raw))
    except RefusalError as refused:
        assert_hides(refused, *parts_of(*headers.values(), *subprotocols))
    else:
        assert found is None or type(found) is Presented


@examples(80)
@given(st.none() | CREDENTIALS, st.none() | CREDENTIALS)
def test_a_first_message_carries_one_credential_or_is_refused(token: str | None, ic_token: str | None) -> None:
    """Never two, never none."""
    try:
        found = presented_in_message(token, ic_token)
    except RefusalError as refused:
        assert_hides(refused, *parts_of(token or "", ic_token or ""))
    else:
        assert_is_hidden(found)
        assert sum(each is not None for each in (found.ic, found.session, found.api, found.refresh)) == 1

"""The client's address cannot be chosen by the client; and the throttle that counts by it."""

import time
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.rate_limits import FailureWindow, Taken, TokenBuckets
from ironcage_core.errors.access import RateLimitExceededError
from ironcage_http.client_address import client_address
from ironcage_http.settings import read_settings
from ironcage_http.throttle import Throttle, check, headers_of

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("192.0.2.7/32"), ip_network("fd00::/8"))
PROXY = "10.0.0.1"
CLIENT = "198.51.100.9"
SPOOFED = "203.0.113.66"


@pytest.mark.parametrize("peer", [CLIENT, "2001:db8::1", "11.0.0.1", "192.0.2.8"])
def test_a_peer_that_is_not_trusted_is_the_client_whatever_it_says(peer: str) -> None:
    """Its header is not read."""
    assert client_address(peer, [SPOOFED], TRUSTED) == peer
    assert client_address(peer, [f"{SPOOFED}, {PROXY}", PROXY], TRUSTED) == peer
    assert client_address(peer, [SPOOFED], ()) == peer


@pytest.mark.parametrize("peer", [PROXY, "192.0.2.7", "fd12::1", "::ffff:10.0.0.1", "fd12::1%eth0"])
@pytest.mark.parametrize(
    "forwarded",
    [
        [CLIENT],
        [f"{SPOOFED}, {CLIENT}"],
        [f"{SPOOFED},{CLIENT},10.9.9.9,  192.0.2.7 "],
        [SPOOFED, CLIENT],
        [SPOOFED, f"{CLIENT}, 10.2.3.4", "192.0.2.7"],
        [f"{PROXY}, {SPOOFED}, {PROXY}, {CLIENT}, {PROXY}"],
        [f"garbage, {CLIENT}"],
        [f", ,{CLIENT}, ,", ""],
        [f"{CLIENT}:51234"],
        [f"::ffff:{CLIENT}"],
        [f"[::ffff:{CLIENT}]:443, [fd00::2]:80"],
    ],
)
def test_a_trusted_peer_names_the_right_most_hop_that_is_not_trusted(peer: str, forwarded: list[str]) -> None:
    """What stands left of it was sent by the client, however it is written and in however many headers."""
    assert client_address(peer, forwarded, TRUSTED) == CLIENT


@pytest.mark.parametrize(
    "hop",
    ["2001:db8::1", "2001:DB8:0::1", "[2001:db8::1]", "[2001:db8::1]:443", "2001:db8:0:0:0:0:0:1", "2001:db8::1%25"],
)
def test_an_address_is_one_however_it_is_written(hop: str) -> None:
    """Else one client had many limits."""
    assert client_address(PROXY, [hop], TRUSTED) == "2001:db8::1"
    assert client_address("2001:DB8::0001", [], ()) == "2001:db8::1"


@pytest.mark.parametrize(
    "garbage",
    [
        "unknown",
        "_hidden",
        "localhost",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "01.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:123456",
        "1.2.3.4 5.6.7.8",
        "::1::",
        "[::1",
        "[]",
        "[]:80",
        '"1.2.3.4"',
        "for=1.2.3.4",
        "10.0.0.0/8",
        "16909060",
        "٣.٣.٣.٣",
        "1.2.3.4\x00",
        "\ud800",
        "1" * 1000,
    ],
)
def test_garbage_ends_the_list_with_the_last_good_address(garbage: str) -> None:
    """Nothing beyond it is believed."""
    assert client_address(PROXY, [f"{SPOOFED}, {garbage}"], TRUSTED) == PROXY
    assert client_address(PROXY, [f"{SPOOFED}, {garbage}, 10.7.7.7, {PROXY}"], TRUSTED) == "10.7.7.7"


def test_where_every_hop_is_trusted_the_left_most_is_the_client() -> None:
    """A proxy itself may be one, as in a health check."""
    assert client_address(PROXY, ["10.1.1.1, 10.2.2.2"], TRUSTED) == "10.1.1.1"
    assert client_address(PROXY, [], TRUSTED) == PROXY
    assert client_address(PROXY, ["", ", ,"], TRUSTED) == PROXY


@pytest.mark.parametrize("peer", [None, "", "testclient", "/run/ironcage.sock"])
def test_a_peer_that_is_no_address_is_kept_and_trusted_by_nobody(peer: str | None) -> None:
    """A socket in the file system, for instance, even where every address is trusted."""
    everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))

    assert client_address(peer, [SPOOFED], everything) == peer


@given(st.none() | st.text(max_size=20), st.lists(st.text(alphabet=",.:[]% 0123456789abcdefx\x00é", max_size=60)))
def test_no_header_makes_it_fail(peer: str | None, forwarded: list[str]) -> None:
    """It is read before anybody has proven anything."""
    client_address(peer, forwarded, TRUSTED)
    found = client_address(PROXY, [*forwarded, CLIENT], TRUSTED)

    assert found == CLIENT


def test_a_huge_header_is_read_in_linear_time() -> None:
    """Many trusted hops, one endless hop, or nothing but commas."""
    start = time.perf_counter()
    for text in ("10.0.0.1," * 20_000, "1" * 200_000, "," * 200_000, "[" * 200_000, "1." * 100_000 + ":1"):
        client_address(PROXY, [text], TRUSTED)

    assert time.perf_counter() - start < 5


# --- the throttle ------------------------------------------------------------


def throttle(**environ: str) -> Throttle:
    settings = read_settings({"DATABASE_URL": "sqlite::memory:", **environ})
    return Throttle(settings, TokenBuckets(lambda: 0), FailureWindow(clock=lambda: 0))


def test_switched_off_only_that_is_limited_which_always_is() -> None:
    """And no address is kept from logging in, however often it fails."""
    off = throttle(IRON_RATE_LIMIT_ENABLED="false")

    assert off.take("login", CLIENT) is None
    keys = [off.take("keys", "user") for _ in range(11)]
    assert [each is not None and each.is_allowed for each in keys] == [True] * 10 + [False]
    assert all(off.note_failed_login(CLIENT) for _ in range(20))
    assert off.login_wait_s(CLIENT) == 0


def test_switched_on_an_address_waits_after_five_failed_logins() -> None:
    """A sixth that was judged meanwhile is told so."""
    on = throttle(IRON_RATE_LIMIT_ENABLED="true")

    noted = [on.note_failed_login(CLIENT) for _ in range(6)]

    assert noted == [True] * 5 + [False]
    assert (on.login_wait_s(CLIENT), on.login_wait_s(SPOOFED)) == (300, 0)


def test_classes_and_keys_have_buckets_of_their_own() -> None:
    """And an operator's rate takes the place of the built-in one, for its class only."""
    on = throttle(IRON_RATE_LIMIT_ENABLED="true", IRON_RATE_LIMITS='{"auth_verify": "1/h"}')

    first, second = on.take("auth_verify", CLIENT), on.take("auth_verify", CLIENT)
    others = [on.take("auth_verify", SPOOFED), on.take("auth_validate", CLIENT)]

    assert first is not None
    assert second is not None
    assert (first.is_allowed, first.limit, first.period_s) == (True, 1, 3600)
    assert (second.is_allowed, second.retry_after_s) == (False, 3600)
    assert [(each.is_allowed, each.limit) for each in others if each] == [(True, 1), (True, 100)]


REFUSED = Taken(is_allowed=False, limit=10, period_s=60, remaining=0, retry_after_s=6, reset_in_s=59)


def test_a_refusal_says_what_the_limit_is_and_when_to_come_back() -> None:
    """Times in milliseconds inside; what was allowed or has no limit goes on."""
    with pytest.raises(RateLimitExceededError) as refused:
        check(REFUSED, 1_000_500)
    check(REFUSED._replace(is_allowed=True), 0)
    check(None, 0)

    assert refused.value.details == {"limit": 10, "window_seconds": 60, "retry_after_s": 6, "reset_at": 1_059_500}


def test_every_counted_answer_carries_the_three_headers() -> None:
    """The reset is a Unix time in seconds."""
    assert headers_of(REFUSED, 1000) == {
        "X-RateLimit-Limit": "10",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "1059",
    }

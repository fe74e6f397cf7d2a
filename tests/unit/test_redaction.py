"""What is not stored of a message, and how long that takes to find."""

from time import perf_counter

import pytest

from ironcage_core.domain.redaction import MARK, redacted

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ0ZXN0IjoxfQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("bad key sk-proj-abc_123 given", f"bad key {MARK} given"),
        ("Authorization: Bearer abc.def", f"Authorization: Bearer {MARK}"),
        ("authorization=Basic dXNlcjpw end", f"authorization=Basic {MARK} end"),
        ("sent bearer abcdef", f"sent bearer {MARK}"),
        ("the token at_0123456789abcdef", f"the token {MARK}"),
        ("rt_0123456789abcdef was used", f"{MARK} was used"),
        (f"is {JWT} valid", f"is {MARK} valid"),
        (f"is ic_{JWT} valid", f"is {MARK} valid"),
        ("?api_key=hunter2&x=1", f"?api_key={MARK}&x=1"),
        ('{"password": "two words", "x": 1}', f'{{"password": {MARK}, "x": 1}}'),
        ("key AIzaSyA1234567890abc", f"key {MARK}"),
        ("xai-0123456789 gsk_0123456789", f"{MARK} {MARK}"),
        ("AKIAIOSFODNN7EXAMPLE", MARK),
        ("at https://joe:pa:ss@host/x", f"at https://{MARK}@host/x"),
        ("ask joe.doe+x@example.co.uk now", f"ask {MARK} now"),
        ("user=joe%40example.com", f"user={MARK}"),
        ("call +1 555 123 4567 now", f"call {MARK} now"),
        ("call (555) 123-4567", f"call {MARK}"),
        ("call +491701234567.", f"call {MARK}."),
        ("call 0170 1234567", f"call {MARK}"),
        ("split s\x00k-abc\x1bdef1 end", f"split {MARK} end"),
        ("wide sk-\u200babcdef1 end", f"wide {MARK} end"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY----- x", f"{MARK} x"),
    ],
)
def test_secrets_addresses_and_numbers_are_taken_out(text: str, left: str) -> None:
    """And nothing else with them."""
    assert redacted(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "Rate limit reached: 429 at 2025-11-21 12:00:00.123, retry after 1763726400",
        "Request req_0123456789 failed with 503 Service Unavailable",
        "max tokens 4096, model gpt-4o-2024-08-06",
        "tokens: 500 of 128000, a task-force met",
    ],
)
def test_plain_messages_stay_as_they_are(text: str) -> None:
    """Whoever looks for a fault needs them."""
    assert redacted(text) == text


def test_control_characters_go_and_lines_become_one() -> None:
    """Nothing of a message can write into a log or a terminal."""
    assert redacted("a\x00b\x1b[1m\nc\r\n\td\x85e\ud800") == "ab[1m c d e"
    assert [redacted(text) for text in (None, "", " ", "\x00")] == [None] * 4


def test_a_message_is_cut_behind_its_redaction() -> None:
    """500 characters stay, and no secret is cut in half to be one no more."""
    assert redacted("x" * 600) == "x" * 500
    secrets = redacted("sk-0123456789abcdef " * 1000) or ""
    assert (len(secrets), set(secrets[:440].split())) == (500, {MARK})


@pytest.mark.parametrize("filler", ["sk-" + "a" * 60 + " ", "joe@example.com,"])
def test_no_part_of_a_secret_is_left_at_the_end_of_what_is_read(filler: str) -> None:
    """However it lies across that end."""
    for shift in range(len(filler)):
        left = redacted(" " * shift + filler * 400, longest=4000) or ""
        assert not left.replace(MARK, "").strip(" ,")


@pytest.mark.parametrize(
    "piece",
    [
        "a", "a@", "eyJ", "sk-", 'api_key="', "1 ", "+1 ", "(", "://", "-----BEGIN", "0 0", "bearer ", "\x00", "a.b-",
        "token:", "1(", "a" * 3999 + " ", "x@x.", "'",
    ],
)  # fmt: skip
def test_no_text_is_slow(piece: str) -> None:
    """A megabyte made to be slow takes less than a tenth of a second."""
    text = piece * (1_000_000 // len(piece))

    started = perf_counter()
    redacted(text)

    assert perf_counter() - started < 0.1

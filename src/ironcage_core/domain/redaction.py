"""Redaction: what must not be stored of a text that a program wrote: secrets, e-mail addresses and phone numbers.

It rather takes too much than too little. Every pattern is bounded or gives nothing back, so that no text is slow. What
is written to a log keeps its lines, and only its secrets are taken.
"""

import re
from collections.abc import Callable
from typing import Final

MARK: Final = "[redacted]"

_READ: Final = 4000
_LOGGED: Final = 32_000
_UNPRINTED: Final = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ud800-\udfff]"
)
_BREAKS: Final = re.compile("[\t-\r\x85\u2028\u2029]+")
_ENDS: Final = "\t\n\r ,;\"'<>(){}[]"

_START: Final = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2})|(?<=\\x[0-9a-f]{2})|(?<=\\u[0-9a-f]{4}))"
"""Where a word begins, be it behind a blank or line break that is written as an escape."""

_SECRETS: Final = re.compile(
    rf"""
    -----BEGIN[A-Z ]{{0,40}}-----[^-]*+(?:-----END[A-Z ]{{0,40}}-----)?
    | {_START} (?:
        (?: sk[-_] | xai- | gsk_ | pplx- | (?:at|rt|ic)_ | hf_ | r8_ | gh[pousr]_ | github_pat_ | glpat- | xox[a-z]- )
            [A-Za-z0-9_.*-]{{3,}}+
        | AIza [A-Za-z0-9_-]{{10,}}+
        | A[KS]IA [A-Z0-9]{{8,}}+
        | AES256: [A-Za-z0-9+/=:]{{8,}}+
    )
    | eyJ [A-Za-z0-9_-]{{5,}}+ (?: \. [A-Za-z0-9_-]*+ ){{0,4}}
    """,
    re.VERBOSE,
)
_NAMED: Final = re.compile(
    r"""
    ( (?: api[ _-]?key | access[_-]?key | private[_-]?key | secret | token | passw(?:or)?d | pwd | credentials?
        | signature ) \\{0,8} ["']? [ ]{0,3} [:=] [ ]{0,3} [\[(]{0,2} )
    (?: "[^"]*+" | '[^']*+' | \\{0,8} ["']? [^\s"'&,;]{2,}+ )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_AUTHORIZED: Final = re.compile(
    _START + r"""((?:authorization["']?[ ]{0,3}[:=][ ]{0,3}["']?(?:[a-z]{1,20}[ ]{1,3})?|bearer[ ]{1,8}))[^\s"',;]++""",
    re.IGNORECASE,
)
_USER_OF_URL: Final = re.compile(r"(://)[^\s@]{1,256}+@")
_HEADER: Final = re.compile(
    r"^([<>] [a-z0-9-]{0,40}(?:auth|cookie|key|protocol|secret|token)[a-z0-9-]{0,40}: ).*$",
    re.IGNORECASE | re.MULTILINE,
)
"""A header of a handshake, as libraries write what they sent and got."""

_FRAME: Final = re.compile(r"^([<>] (?:TEXT|BINARY|CONT) ).*(?= \[)", re.MULTILINE)
"""A message of a socket as libraries write it: cut in the middle or in pieces, no secret is known as one."""

_NAME: Final = re.compile(r"(?:at|rt|ic)(?:_[a-z]{1,20}){1,4}(?:\.py)?")
"""A name in a program that begins like a token; none that is drawn at random looks like it."""

_EMAIL: Final = re.compile(r"""[^\s@<>"',;:()\[\]{}=]{1,64}(?:@|%40)[^\s@<>"',;:()\[\]{}/]{1,253}+""")
_PHONE: Final = re.compile(
    r"""
    (?<![\w.:+-]) (?:
        (?: \+ | 00 ) [1-9] (?: [ ().-]{0,3} \d ){6,14}+
        | (?: 1[ .-] )? \(? \d{3} \)? [ .-]{1,2} \d{3} [ .-] \d{4}
        | [2-9]\d{2} [2-9]\d{6}
        | 0 \d{2,4} [ /-]{1,3} \d{3,16} (?: [ -] \d{2,8} ){0,4}
    ) (?![\w-])
    """,
    re.VERBOSE,
)


def redacted(text: str | None, *, longest: int = 500) -> str | None:
    """Return a text without control characters and without what is nobody's business, cut; None for an empty one."""
    if not text:
        return None
    head = text[:_READ]
    if len(text) > _READ:  # a secret that is cut in half would not be known as one
        head = head[: max(map(head.rfind, _ENDS)) + 1]
    head = _BREAKS.sub(" ", _UNPRINTED.sub("", head))
    head = _EMAIL.sub(MARK, _masked(head, MARK))
    head = _PHONE.sub(MARK, head)
    return head[:longest].strip() or None


def masked(text: str) -> str:
    """Return a text of a log without its secrets; of a very long one the last part, where exceptions say what they are.

    Names of variables and modules in it stay, so that a traceback can be read.
    """
    tail = text[-_LOGGED:]
    if len(text) > _LOGGED:  # as above: what is cut in half goes
        tail = tail[min((found for found in map(tail.find, _ENDS) if found >= 0), default=len(tail)) :]
    tail = _FRAME.sub(rf"\1{MARK}", _HEADER.sub(rf"\1{MARK}", tail))
    return _masked(tail, lambda found: found[0] if _NAME.fullmatch(found[0]) else MARK)


def _masked(text: str, secret: str | Callable[[re.Match[str]], str]) -> str:
    text = _AUTHORIZED.sub(rf"\1{MARK}", text)
    text = _SECRETS.sub(secret, text)
    text = _NAMED.sub(rf"\1{MARK}", text)
    return _USER_OF_URL.sub(rf"\1{MARK}@", text)

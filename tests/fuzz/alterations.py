"""Alterations: texts and bytes that were valid once, and what else is sent to hurt."""

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st

LOOKALIKES = '\u0430\u03b1\uff41\u2024\uff0e\uff1a\u02d0\u00a0\u200b\u2028\ufeff\x00\n\r\t =+-_/.:|"\\%,;\ud800\udfff'
"""Characters that look like others, end things elsewhere, or are none."""

CHARACTERS = st.characters() | st.sampled_from(LOOKALIKES)
BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"


class Cut(NamedTuple):
    """Where a text is altered, and by what."""

    start: int
    end: int
    parts: list[str]
    place: int
    others: list[str]
    joint: str
    new: str
    number: int

    @property
    def part(self) -> str:
        """The part that is altered."""
        return self.parts[self.place]

    def instead(self, part: str) -> str:
        """Return the whole text with another part in its place."""
        return self.joint.join([*self.parts[: self.place], part, *self.parts[self.place + 1 :]])


WRAPS = ("{} ", " {}", "{}\n", "{}\0", "\ufeff{}", "'{}'", "{}=", "ic_{}", "{}A", "%s{}")
CHANGES: tuple[Callable[[str, Cut], str], ...] = (
    lambda text, cut: text[: cut.start] + cut.new + text[cut.start + 1 :],
    lambda text, cut: text[: cut.start] + cut.new + text[cut.start :],
    lambda text, cut: text[: cut.start] + text[cut.end - 1 : cut.end] + text[cut.start + 1 :],
    lambda text, cut: text.strip() + " \t\n"[cut.number % 3],
    lambda text, cut: text[: cut.start] + text[cut.end :],
    lambda text, cut: text[: cut.end] + text[cut.start :],
    lambda text, cut: text[: cut.start] + text[cut.start : cut.end].swapcase() + text[cut.end :],
    lambda text, cut: text[: cut.start] + cut.joint.join(cut.others)[cut.start :],
    lambda text, cut: WRAPS[cut.number % len(WRAPS)].replace("{}", text),
    lambda _, cut: cut.joint.join([*cut.parts[cut.place :], *cut.parts[: cut.place]]),
    lambda _, cut: cut.joint.join(cut.parts[::-1]),
    lambda _, cut: cut.instead(cut.others[cut.place % len(cut.others)]),
    lambda _, cut: cut.instead(cut.others[cut.number % len(cut.others)]),
    # What a lenient reader of base64 takes, too.
    lambda _, cut: cut.instead(cut.part.rstrip("=")),
    lambda _, cut: cut.instead(cut.part + "=" * (1 + cut.number % 4)),
    lambda _, cut: cut.instead(cut.part.translate(str.maketrans("+/-_", "-_+/"))),
    lambda _, cut: cut.instead(cut.part[:4] + "\n" + cut.part[4:]),
    lambda _, cut: cut.instead(re.sub("[^=](=*)$", rf"{BASE64[cut.number % len(BASE64)]}\g<1>", cut.part)),
)
"""What may become of a text."""

_STEP = st.tuples(st.sampled_from(CHANGES), *[st.integers(0, 2**16)] * 3)


def altered(*valid: str, joint: str = ".", characters: st.SearchStrategy[str] = CHARACTERS) -> st.SearchStrategy[str]:
    """Draw what becomes of a valid text by a few alterations; it may come out as it went in.

    Args:
        valid: Texts to start from, and to splice with.
        joint: What stands between their parts.
        characters: What may be put in.
    """

    def alter(text: str, steps: list[tuple[Callable[[str, Cut], str], int, int, int]], new: str) -> str:
        for change, left, right, number in steps:
            start, end = sorted(each % (len(text) + 1) for each in (left, right))
            parts = text.split(joint)
            others = valid[number % len(valid)].split(joint)
            text = change(text, Cut(start, end, parts, left % len(parts), others, joint, new, number))
        return text

    return st.builds(alter, st.sampled_from(valid), st.lists(_STEP, min_size=1, max_size=3), characters)


def altered_bytes(*valid: bytes, joint: bytes = b",") -> st.SearchStrategy[bytes]:
    """Draw what becomes of valid bytes by a few alterations."""
    texts = [each.decode("latin-1") for each in valid]
    changed = altered(*texts, joint=joint.decode(), characters=st.integers(0, 255).map(chr))
    return changed.map(lambda text: text.encode("latin-1", "replace"))


NUMBERS = st.sampled_from(
    [
        "0", "-0", "1", "-1", "1.5", "0.000001", "1e-6", "1E+2", "1e-7", "0.0000001", "9007199254740993", "1e18",
        "1e19", "9223372036854775807", "9223372036854775808", "18446744073709551616", "4611686018427387904", "1e308",
        "1e309", "1e-400", "1e999999", "1e-999999", "1e99999999999999999999", "0e99999999999999999999",
        "-1e-99999999999999999999", "9" * 30, "9" * 5000, "0." + "1" * 5000, "1" + "0" * 4299 + "e-4299", "NaN",
        "Infinity", "-Infinity", "01", "+1", "1_0", ".5", "5.", "0x10", "1e", "--1",
    ]
)  # fmt: skip
"""Numbers as JSON spells them, or nearly so."""

TEXTS = st.one_of(
    st.lists(CHARACTERS, max_size=3).map(lambda text: json.dumps("".join(text))),
    st.lists(st.sampled_from("aZ:,{}[] \u00e9\u0430\u2028\x7f"), max_size=4).map(lambda text: f'"{"".join(text)}"'),
    NUMBERS.map(json.dumps),
    st.sampled_from(
        ['"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\x"', '"\\', '"', '"\x01"', '"\\u00"', "'a'", '""']
    ),
)
"""Strings as JSON spells them, or nearly so."""


def _array(values: list[str]) -> str:
    return "[" + ",".join(values) + "]"


def objects(names: st.SearchStrategy[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Draw objects; a name may come twice."""
    spelled = names.map(json.dumps) | names.map(lambda name: '"' + "".join(f"\\u{ord(c):04x}" for c in name) + '"')
    members = st.lists(st.tuples(spelled, values).map(":".join), max_size=4)
    return members.map(lambda each: "{" + ",".join(each) + "}")


def values(names: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Draw JSON values, most of them well-formed, with these names in the objects."""
    plain = NUMBERS | TEXTS | st.sampled_from(["true", "false", "null", "[]", "{}"])
    deep = st.tuples(st.sampled_from(["[", '{"a":', '[{"a":']), st.sampled_from([3, 63, 64, 65, 500, 5000])).map(
        _nested
    )
    return (
        st.recursive(plain, lambda inner: st.lists(inner, max_size=3).map(_array) | objects(names, inner), max_leaves=6)
        | deep
    )


def _nested(shape: tuple[str, int]) -> str:
    opening, depth = shape
    closing = "".join({"[": "]", "{": "}"}.get(each, "") for each in reversed(opening))
    return opening * depth + "1" + closing * depth

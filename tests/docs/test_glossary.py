"""The glossary has every word of the code that people meet: prefixes of ids, kinds of entries, states, tokens."""

import re
from pathlib import Path
from typing import Final, get_args

import pytest

from ironcage_core.domain.ids import Prefix
from ironcage_core.domain.leases import LeaseStatus
from ironcage_core.domain.ledger import EntryKind
from ironcage_core.domain.users import Role

GLOSSARY: Final = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()
ITEMS: Final = re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=^- |\Z)", GLOSSARY, re.MULTILINE | re.DOTALL)
TERMS: Final = [term for term, _ in ITEMS]


@pytest.mark.parametrize("prefix", get_args(Prefix))
def test_every_prefix_of_an_id_belongs_to_a_term(prefix: str) -> None:
    """So whoever sees an id can look up what it is of."""
    assert f"`{prefix}_…`" in GLOSSARY


@pytest.mark.parametrize("word", [*get_args(EntryKind), *get_args(LeaseStatus)])
def test_every_kind_of_entry_and_state_of_a_lease_is_named(word: str) -> None:
    """As the code and the answers spell it."""
    assert f"`{word}`" in GLOSSARY


@pytest.mark.parametrize("kind", ["Access token", "Refresh token", "API token", "IC token", "IP token"])
def test_every_kind_of_token_is_a_term(kind: str) -> None:
    """Those that a request may carry, and the one that a lease brings."""
    assert kind in TERMS


def test_every_role_is_named() -> None:
    """In the term of that name."""
    role = dict(ITEMS)["Role"]

    assert [each for each in get_args(Role) if each not in role] == []


def test_terms_are_in_the_order_of_the_alphabet() -> None:
    """And each stands there once."""
    assert sorted({term.casefold() for term in TERMS}) == [term.casefold() for term in TERMS]


def test_every_term_leads_to_where_it_is_explained() -> None:
    """By a link at its end."""
    assert [term for term, text in ITEMS if not text.strip().endswith(").")] == []
    assert [term for term, text in ITEMS if "](" not in text] == []

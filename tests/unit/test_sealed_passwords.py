"""Passwords are argon2id hashes; garbage is never a match and never an error."""

import argon2
import pytest
from argon2.exceptions import HashingError
from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.secrecy import PasswordHasher
from ironcage_storage.sealed.passwords import Argon2PasswordHasher

QUICK = Argon2PasswordHasher(memory_kib=8, passes=1, lanes=1)
PASSWORD = "correct horse battery staple"
ENCODED = QUICK.hash(PASSWORD)


def test_the_hasher_is_what_the_port_asks_for() -> None:
    """A type checker accepts the hasher where the port is asked for."""
    hasher: PasswordHasher = QUICK

    assert hasher.verify(ENCODED, PASSWORD)


def test_default_parameters_are_the_contracts_floor() -> None:
    """Argon2id with 19456 KiB, two passes, one lane."""
    encoded = Argon2PasswordHasher().hash(PASSWORD)

    assert encoded.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@given(st.text(alphabet=st.characters(), max_size=60))
@example("\ud800")
@example("a\x00b")
@example("  padded  ")
@example("x" * 1000)
def test_a_password_verifies_against_its_own_hash(password: str) -> None:
    """Any text at all, lone surrogates included, is hashed as it is."""
    encoded = QUICK.hash(password)

    assert QUICK.verify(encoded, password)
    assert not QUICK.verify(encoded, password + "x")


@pytest.mark.parametrize("other", ["", PASSWORD.upper(), f" {PASSWORD}", f"{PASSWORD} ", PASSWORD[:-1]])
def test_another_password_does_not_verify(other: str) -> None:
    """Case and surrounding space count."""
    assert not QUICK.verify(ENCODED, other)


def test_composed_and_decomposed_letters_are_different_passwords() -> None:
    """Passwords are never normalised."""
    encoded = QUICK.hash("caf\u00e9")

    assert not QUICK.verify(encoded, "cafe\u0301")


def test_two_hashes_of_one_password_differ() -> None:
    """Each hash has a salt of its own."""
    assert QUICK.hash(PASSWORD) != QUICK.hash(PASSWORD)


@given(st.text(alphabet=st.characters()))
@example("")
@example("$argon2id$")
@example("$argon2id$v=19$m=8,t=1,p=1$")
@example("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$é")
@example("$argon2id$v=19$m=x,t=1,p=1$c2FsdHNhbHQ$aGFzaA")
@example(ENCODED[:-1])
@example(ENCODED.replace("argon2id", "argon2xx"))
def test_garbage_never_verifies_and_always_wants_a_rehash(garbage: str) -> None:
    """A damaged hash is a wrong password, not a crash."""
    verified = QUICK.verify(garbage, PASSWORD)
    rehash = QUICK.needs_rehash(garbage)

    assert not verified
    assert rehash in {True, False}


def test_only_other_parameters_want_a_rehash() -> None:
    """A hash of today's parameters stays, one of cheaper parameters or another variant goes."""
    salted_otherwise = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=argon2.Type.I).hash("p")

    assert not QUICK.needs_rehash(ENCODED)
    assert Argon2PasswordHasher().needs_rehash(ENCODED)
    assert QUICK.needs_rehash(salted_otherwise)
    assert QUICK.needs_rehash("not a hash")


def test_a_hash_that_argon2_cannot_make_is_an_unavailable_service() -> None:
    """A failure of argon2 itself, here for want of memory, says so without the password."""
    starved = Argon2PasswordHasher(memory_kib=1, passes=1, lanes=1)

    with pytest.raises(UnavailableError) as refused:
        starved.hash(PASSWORD)

    assert isinstance(refused.value.__cause__, HashingError)
    assert PASSWORD not in f"{refused.value!r}{refused.value.__cause__!r}"

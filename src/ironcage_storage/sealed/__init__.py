"""Cryptography behind the core's secrecy ports."""

"""What a request ends in that does not succeed, for a program that people use: a refusal, or no answer at all."""

from collections.abc import Mapping
from typing import Any


class AnsweredError(Exception):
    """The server refused.

    Args:
        status: Of the answer.
        code: The stable code of the refusal.
        message: For a person.
        details: Facts for a program.
    """

    def __init__(self, status: int, code: str, message: str, details: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details


class NoAnswerError(Exception):
    """Nobody answered, or somebody who is no control plane; the text says what happened."""

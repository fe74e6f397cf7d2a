"""Requests drawn from the description: what lies at every edge of it, and what happens to come to mind."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.fuzz.effort import examples

Case = schemathesis.Case[Any]
Operation = APIOperation[Any, Any, Any, Any]
_MODES = list(GenerationMode)


def every_operation(schema: OpenApiSchema) -> list[Operation]:
    """Return the operations in their order."""
    return [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]


def operations(schema: OpenApiSchema, part: int, parts: int) -> list[Operation]:
    """Return a part of the operations; what deletes comes last, and of that what is nearest to the root."""
    found = every_operation(schema)[part::parts]
    return sorted(found, key=lambda each: (each.method == "delete", -len(each.path) if each.method == "delete" else 0))


def cases(schema: OpenApiSchema, operation: Operation, *, step: int, drawn: int) -> Sequence[Case]:
    """Return requests of an operation.

    Args:
        schema: The description.
        operation: The operation.
        step: Every how many of the requests at its edges are taken.
        drawn: How many are drawn besides, of each of those that fit the description and those that do not.
    """
    edges = schema.iter_coverage_cases(operation, generation_modes=_MODES, generation_config=schema.config.generation)
    return [*islice(edges, 0, None, step), *(case for mode in _MODES for case in _drawn(operation, mode, drawn))]


def _drawn(operation: Operation, mode: GenerationMode, count: int) -> Iterator[Case]:
    found: list[Case] = []

    @settings(
        examples(count), database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def draw(case: Case) -> None:
        found.append(case)

    try:
        draw()
    except Unsatisfiable:  # nothing that is sent to it could be wrong
        return
    yield from found

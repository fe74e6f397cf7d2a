"""Rollup tables: the families of tables that usage is summed in, and the SQL that is made from their columns.

A family has tables by hour and by day, and each of these by agent ("fine") and without agents ("wide") for whoever asks
of the whole. All have the key of a cell of usage; a family may add to it, or do without a part that nobody asks for.
"""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.histograms import STEPS_PER_BAND
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR
from ironcage_core.domain.usage import UsageSums

Level = Literal["hours", "days"]

WIDE: Final = ("bucket", "project_id", "provider", "provider_id", "model")
FINE: Final = ("bucket", "agent_id", "owner_id", *WIDE[1:])
LENGTH_MS: Final[dict[Level, int]] = {"hours": MS_PER_HOUR, "days": MS_PER_DAY}

NO_COST: Final = 2**62
"""The lowest cost of a cell in which no call was completed: higher than any, so that the first one is lower."""

STEPS: Final = tuple(f"s{place}" for place in range(STEPS_PER_BAND))
"""The columns of the steps of a band."""

UNNAMED_ERROR: Final = "unknown"


class Kind(NamedTuple):
    """Which table of a family."""

    level: Level
    is_fine: bool


ALL_KINDS: Final = (Kind("days", True), Kind("hours", True), Kind("days", False), Kind("hours", False))


class Family(NamedTuple):
    """What its tables have in common.

    `kinds` are the tables it has, `fine` is the key of those by agent, `extra` what it adds to every key, `added` what
    is summed, `highest` and `lowest` what only the extreme is kept of; `counted` is the SELECT of all these from the
    records of an instant on, which it binds.
    """

    suffix: str
    kinds: tuple[Kind, ...]
    fine: tuple[str, ...]
    extra: tuple[str, ...]
    added: tuple[str, ...]
    highest: tuple[str, ...]
    lowest: tuple[str, ...]
    counted: str

    @property
    def numbers(self) -> tuple[str, ...]:
        """All numbers of a row, in the order of its columns."""
        return (*self.added, *self.highest, *self.lowest)

    def name(self, level: Level, *, is_fine: bool) -> str:
        """Return what one of its tables is called."""
        return f"usage_{'' if is_fine else 'wide_'}{level}{self.suffix}"

    def key(self, *, is_fine: bool) -> tuple[str, ...]:
        """Return the key of its fine or of its wide tables."""
        return (*(self.fine if is_fine else WIDE), *self.extra)

    def how(self, number: str) -> str:
        """Return the aggregate that makes one number of several."""
        return "max" if number in self.highest else "min" if number in self.lowest else "sum"

    def nothing(self, number: str) -> int:
        """Return what a number is where there is no call."""
        return NO_COST if number in self.lowest else 0

    def merged(self, numbers: Iterable[str] | None = None) -> str:
        """Return the columns of a SELECT that makes one of each number of several rows, or of some of them."""
        chosen = self.numbers if numbers is None else numbers
        return ", ".join(f"{self.how(number)}({number}) AS {number}" for number in chosen)

    def upsert(self, level: Level, *, is_fine: bool) -> str:
        """Return what moves the numbers of a row by differences."""
        key = self.key(is_fine=is_fine)
        columns = (*key, *self.numbers)
        return (
            f"INSERT INTO {self.name(level, is_fine=is_fine)} ({', '.join(columns)}) "
            f"VALUES ({', '.join('?' * len(columns))}) ON CONFLICT ({', '.join(key)}) "
            f"DO UPDATE SET {', '.join(map(self._moved, self.numbers))}"
        )

    def _moved(self, number: str) -> str:
        how = self.how(number)
        other = f"excluded.{number}"
        return f"{number} = {number} + {other}" if how == "sum" else f"{number} = {how}({number}, {other})"

    def of_records(self, kind: Kind) -> str:
        """Return the SELECT of what the records from an instant on, which it binds, make of each row of a table."""
        key = self.key(is_fine=kind.is_fine)
        names = key[: len(key) - len(self.extra)]
        told = {
            "bucket": f"occurred_at / {LENGTH_MS[kind.level]} AS bucket",
            "provider_id": "coalesce(provider_id, '') AS provider_id",
        }
        cell = ", ".join(told.get(name, name) for name in names)
        places = ", ".join(str(place) for place in range(1, len(key) + 1))
        return self.counted.format(cell=cell, places=places, names=", ".join(names))

    def of_fine(self, level: Level) -> str:
        """Return the SELECT of what fine rows from a bucket on, which it binds, make of each wide one."""
        keys, added = ", ".join(self.key(is_fine=False)), ", ".join(self.added)
        table, zeros = self.name(level, is_fine=True), ", ".join("0" for _ in self.added)
        return f"""SELECT {keys}, {self.merged()} FROM {table}
            WHERE bucket >= ? AND ({added}) <> ({zeros}) GROUP BY {keys}"""


_IS_COMPLETED: Final = "outcome = 'completed'"

SUMS: Final = Family(
    suffix="",
    kinds=ALL_KINDS,
    fine=FINE,
    extra=(),
    added=UsageSums._fields[:-3],
    highest=("last_at", "max_cost_micros"),
    lowest=("min_cost_micros",),
    counted=f"""SELECT {{cell}},
            sum({_IS_COMPLETED}) AS completed, sum(outcome = 'failed') AS failed,
            sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
            sum(unsplit_tokens) AS unsplit_tokens, sum(cost_micros) AS cost_micros,
            count(duration_ms) AS timed, coalesce(sum(duration_ms), 0) AS duration_ms,
            coalesce(sum(cost_micros) FILTER (WHERE outcome = 'failed'), 0) AS failed_cost_micros,
            max(occurred_at) AS last_at,
            coalesce(max(cost_micros) FILTER (WHERE {_IS_COMPLETED}), 0) AS max_cost_micros,
            coalesce(min(cost_micros) FILTER (WHERE {_IS_COMPLETED}), {NO_COST}) AS min_cost_micros
        FROM usage_records WHERE occurred_at >= ? GROUP BY {{places}}""",
)
"""Sums of calls; the columns are those of `UsageSums`."""

BANDS: Final = Family(
    suffix="_bands",
    # Their rows are many, and each costs a report some time: hours of agents are counted from the records instead, and
    # whose an agent is asked of the agents.
    kinds=tuple(kind for kind in ALL_KINDS if kind != ("hours", True)),
    fine=tuple(name for name in FINE if name != "owner_id"),
    extra=("measure", "band"),
    added=("calls", *STEPS),
    highest=(),
    lowest=(),
    # Steps are counted first, so that the step of a value is looked for once.
    counted=f"""SELECT {{names}}, measure, step / {STEPS_PER_BAND} AS band, sum(n) AS calls,
            {", ".join(f"sum(n * (step % {STEPS_PER_BAND} = {place})) AS {name}" for place, name in enumerate(STEPS))}
        FROM (SELECT {{cell}}, measure,
            step_of(CASE measure WHEN 'cost' THEN cost_micros ELSE duration_ms END) AS step, count(*) AS n
            FROM usage_records CROSS JOIN (SELECT 'cost' AS measure UNION ALL SELECT 'duration')
            WHERE occurred_at >= ? AND CASE measure WHEN 'cost' THEN {_IS_COMPLETED} ELSE duration_ms IS NOT NULL END
            GROUP BY {{places}}) GROUP BY {{names}}, measure, step / {STEPS_PER_BAND}""",
)
"""Histograms of the cost of completed calls and of durations: a row for each band, a column for each step in it."""

ERRORS: Final = Family(
    suffix="_errors",
    kinds=ALL_KINDS,
    fine=FINE,
    extra=("error_code",),
    added=("calls",),
    highest=("last_at",),
    lowest=(),
    counted=f"""SELECT {{cell}}, coalesce(nullif(error_code, ''), '{UNNAMED_ERROR}') AS error_code,
            count(*) AS calls, max(occurred_at) AS last_at
        FROM usage_records WHERE occurred_at >= ? AND outcome = 'failed' GROUP BY {{places}}""",
)
"""Failed calls by how they failed."""

FAMILIES: Final = (SUMS, BANDS, ERRORS)

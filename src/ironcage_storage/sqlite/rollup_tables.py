"""Rollup tables: the families of tables that usage is summed in, and the SQL that is made from their columns.

A family has tables by hour and by day, of three scopes: "fine" ones with the key of a cell of usage, "wide" ones
without agents for whoever asks of the whole, and "agent" ones with nothing but the agent, for whoever asks only of
agents. A family may add to these keys, do without a part that nobody asks for, and without a table.
"""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.histograms import STEPS_PER_BAND
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR
from ironcage_core.domain.usage import UsageSums

Level = Literal["hours", "days"]
Scope = Literal["fine", "agent", "wide"]

WIDE: Final = ("bucket", "project_id", "provider", "provider_id", "model")
FINE: Final = ("bucket", "agent_id", "owner_id", *WIDE[1:])
AGENT: Final = ("bucket", "agent_id")
LENGTH_MS: Final[dict[Level, int]] = {"hours": MS_PER_HOUR, "days": MS_PER_DAY}

NO_COST: Final = 2**62
"""The lowest cost of a cell in which no call was completed: higher than any, so that the first one is lower."""

STEPS: Final = tuple(f"s{place}" for place in range(STEPS_PER_BAND))
"""The columns of the steps of a band."""

UNNAMED_ERROR: Final = "unknown"


class Kind(NamedTuple):
    """Which table of a family."""

    level: Level
    scope: Scope


ALL_KINDS: Final = (
    Kind("days", "fine"), Kind("hours", "fine"), Kind("days", "agent"), Kind("days", "wide"), Kind("hours", "wide"),
)  # fmt: skip
"""Fine ones first: the others are sums of them. Of the hours of agents there are few rows to each fine one."""


class Family(NamedTuple):
    """What its tables have in common.

    `kinds` are the tables it has, `fine` is the key of the fine ones, `extra` what it adds to every key, `added` what
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

    def name(self, kind: Kind) -> str:
        """Return what one of its tables is called."""
        return f"usage_{'' if kind.scope == 'fine' else f'{kind.scope}_'}{kind.level}{self.suffix}"

    def cell(self, scope: Scope) -> tuple[str, ...]:
        """Return the key of its tables of a scope without what it adds."""
        return {"fine": self.fine, "agent": AGENT, "wide": WIDE}[scope]

    def key(self, scope: Scope) -> tuple[str, ...]:
        """Return the key of its tables of a scope."""
        return (*self.cell(scope), *self.extra)

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

    def upsert(self, kind: Kind) -> str:
        """Return what moves the numbers of a row by differences."""
        key = self.key(kind.scope)
        columns = (*key, *self.numbers)
        return (
            f"INSERT INTO {self.name(kind)} ({', '.join(columns)}) "
            f"VALUES ({', '.join('?' * len(columns))}) ON CONFLICT ({', '.join(key)}) "
            f"DO UPDATE SET {', '.join(map(self._moved, self.numbers))}"
        )

    def _moved(self, number: str) -> str:
        how = self.how(number)
        other = f"excluded.{number}"
        return f"{number} = {number} + {other}" if how == "sum" else f"{number} = {how}({number}, {other})"

    def of_records(self, kind: Kind) -> str:
        """Return the SELECT of what the records from an instant on, which it binds, make of each row of a table."""
        names = self.cell(kind.scope)
        told = {
            "bucket": f"occurred_at / {LENGTH_MS[kind.level]} AS bucket",
            "provider_id": "coalesce(provider_id, '') AS provider_id",
        }
        cell = ", ".join(told.get(name, name) for name in names)
        places = ", ".join(str(place) for place in range(1, len(self.key(kind.scope)) + 1))
        return self.counted.format(cell=cell, places=places, names=", ".join(names))

    def of_fine(self, kind: Kind) -> str:
        """Return the SELECT of what fine rows from a bucket on, which it binds, make of each row of another scope."""
        keys, added = ", ".join(self.key(kind.scope)), ", ".join(self.added)
        table, zeros = self.name(Kind(kind.level, "fine")), ", ".join("0" for _ in self.added)
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
    kinds=tuple(kind for kind in ALL_KINDS if kind != ("hours", "fine")),
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
    kinds=tuple(kind for kind in ALL_KINDS if kind.scope != "agent"),
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

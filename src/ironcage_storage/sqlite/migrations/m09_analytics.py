"""Rollups for analytics: extremes and histograms of cost, histograms of durations, and failed calls by error code."""

from typing import Final

_WIDE: Final = ("bucket", "project_id", "provider", "provider_id", "model")
_FINE: Final = ("bucket", "agent_id", "owner_id", *_WIDE[1:])
_MS_PER_HOUR: Final = 3_600_000
_MS_PER_DAY: Final = 86_400_000
_NO_COST: Final = 2**62
_STEPS: Final = tuple(f"s{place}" for place in range(32))
_COUNTS: Final = ("calls", *_STEPS)
_SUMS: Final = (
    "completed", "failed", "input_tokens", "output_tokens", "unsplit_tokens", "cost_micros", "timed", "duration_ms",
    "failed_cost_micros", "last_at", "max_cost_micros", "min_cost_micros",
)  # fmt: skip


def _extremes(name: str, key: tuple[str, ...], bucket_ms: int) -> tuple[str, ...]:
    """Return what adds the extremes to a rollup and takes them from the records; a cell without any stays as empty."""
    chosen = {
        "bucket": f"occurred_at / {bucket_ms} AS bucket",
        "provider_id": "coalesce(provider_id, '') AS provider_id",
    }
    return (
        f"ALTER TABLE {name} ADD COLUMN failed_cost_micros INTEGER NOT NULL DEFAULT 0",  # none had failed yet
        f"ALTER TABLE {name} ADD COLUMN max_cost_micros INTEGER NOT NULL DEFAULT 0",
        f"ALTER TABLE {name} ADD COLUMN min_cost_micros INTEGER NOT NULL DEFAULT {_NO_COST}",
        f"""UPDATE {name} SET (max_cost_micros, min_cost_micros) = (c.highest, c.lowest) FROM (
            SELECT {", ".join(chosen.get(column, column) for column in key)},
                max(cost_micros) AS highest, min(cost_micros) AS lowest
            FROM usage_records WHERE outcome = 'completed'
            GROUP BY {", ".join(str(place) for place in range(1, len(key) + 1))}) c
        WHERE {" AND ".join(f"c.{column} = {name}.{column}" for column in key)}""",
    )


def _summed(
    name: str, source: str, cell: tuple[str, ...], extra: tuple[str, ...], numbers: tuple[str, ...]
) -> tuple[str, str]:
    """Return what creates a table and fills it from a finer one."""
    how = {"last_at": "max", "max_cost_micros": "max", "min_cost_micros": "min"}
    key = (*cell, *extra)
    sums = ", ".join(f"{how.get(number, 'sum')}({number})" for number in numbers)
    filled = f"SELECT {', '.join(key)}, {sums} FROM {source} GROUP BY {', '.join(key)}"
    return (
        _create(name, cell, extra, numbers),
        f"INSERT INTO {name} ({', '.join((*key, *numbers))}) {filled}",
    )


def _create(name: str, key: tuple[str, ...], extra: tuple[str, ...], numbers: tuple[str, ...]) -> str:
    columns = (*key, *extra)
    # Of a histogram one measure is read, and then one band of it: they stand before the days.
    found = (*(column for column in key if column == "agent_id"), *extra) if "band" in extra else ()
    order = (*found, *(column for column in columns if column not in found))
    kinds = {column: "INTEGER" if column in {"bucket", "band"} else "TEXT" for column in columns}
    keys = "".join(f"{column} {kind} NOT NULL, " for column, kind in kinds.items())
    counted = "".join(f"{number} INTEGER NOT NULL DEFAULT 0, " for number in numbers)
    return f"CREATE TABLE {name} ({keys}{counted}PRIMARY KEY ({', '.join(order)})) STRICT, WITHOUT ROWID"


def _table(
    name: str, key: tuple[str, ...], extra: tuple[str, ...], numbers: tuple[str, ...], counted: str
) -> tuple[str, str]:
    """Return what creates a table and fills it from the records."""
    lengths = {"days": _MS_PER_DAY, "hours": _MS_PER_HOUR}
    length = next(length for level, length in lengths.items() if level in name)
    told = {"bucket": f"occurred_at / {length} AS bucket", "provider_id": "coalesce(provider_id, '') AS provider_id"}
    columns, chosen = ", ".join((*key, *extra, *numbers)), ", ".join(told.get(column, column) for column in key)
    places = ", ".join(str(place) for place in range(1, len(key) + len(extra) + 1))
    filled = counted.format(names=", ".join(key), cell=chosen, places=places)
    return _create(name, key, extra, numbers), f"INSERT INTO {name} ({columns}) {filled}"


_BANDS: Final = f"""SELECT {{names}}, measure, step / 32 AS band, sum(n),
        {", ".join(f"sum(n * (step % 32 = {place}))" for place in range(32))}
    FROM (SELECT {{cell}}, 'cost' AS measure, step_of(cost_micros) AS step, count(*) AS n
        FROM usage_records WHERE outcome = 'completed' GROUP BY {{places}}
        UNION ALL SELECT {{cell}}, 'duration', step_of(duration_ms), count(*)
        FROM usage_records WHERE duration_ms IS NOT NULL GROUP BY {{places}}) GROUP BY {{places}}"""
_ERRORS: Final = """SELECT {cell}, coalesce(nullif(error_code, ''), 'unknown'), count(*), max(occurred_at)
    FROM usage_records WHERE outcome = 'failed' GROUP BY {places}"""
# By agent a day is looked for among all days; in an hour all agents lie side by side, where reports come in.
_AGENT: Final = ("agent_id", "bucket")
_FINE_DAYS: Final = ("agent_id", "bucket", *_FINE[2:])
_BANDS_BY_AGENT: Final = ("agent_id", "bucket", *_WIDE[1:])

STATEMENTS: Final = (
    *_extremes("usage_days", _FINE, _MS_PER_DAY),
    *_extremes("usage_hours", _FINE, _MS_PER_HOUR),
    *_extremes("usage_wide_days", _WIDE, _MS_PER_DAY),
    *_extremes("usage_wide_hours", _WIDE, _MS_PER_HOUR),
    *_table("usage_days_bands", _BANDS_BY_AGENT, ("measure", "band"), _COUNTS, _BANDS),
    *_summed("usage_agent_days", "usage_days", _AGENT, (), _SUMS),
    *_summed("usage_agent_days_bands", "usage_days_bands", _AGENT, ("measure", "band"), _COUNTS),
    *_summed("usage_wide_days_bands", "usage_days_bands", _WIDE, ("measure", "band"), _COUNTS),
    *_table("usage_wide_hours_bands", _WIDE, ("measure", "band"), _COUNTS, _BANDS),
    *_table("usage_days_errors", _FINE_DAYS, ("error_code",), ("calls", "last_at"), _ERRORS),
    *_table("usage_hours_errors", _FINE, ("error_code",), ("calls", "last_at"), _ERRORS),
    *_table("usage_wide_days_errors", _WIDE, ("error_code",), ("calls", "last_at"), _ERRORS),
    *_table("usage_wide_hours_errors", _WIDE, ("error_code",), ("calls", "last_at"), _ERRORS),
)

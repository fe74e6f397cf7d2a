"""No value becomes a part of SQL: statements are made of what stands in the code, and values are bound."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.security.closed_sql import Reader

SRC = Path(__file__).parents[2] / "src"
SQLITE = SRC / "ironcage_storage" / "sqlite"

JUDGED: Mapping[str, str] = {
    "rows.py: self.name": "a table's name, from the collection that opens it",
    "rows.py: self.sql.columns": "the fields of a row type",
    "rows.py: self.sql.delete": "made by `statements` of a table's name and the fields of a row type",
    "rows.py: self.sql.find": "likewise",
    "rows.py: self.sql.upsert": "likewise",
    "rows.py: how.sql": "made by `update` of the same",
    "logs.py: self.sql.columns": "the fields of a row type",
    "logs.py: self.sql.insert": "made by `statements`",
    "logs.py: self._add": "made in the constructor of the name, key and counter of a table of counts",
    "logs.py: self._decrease": "likewise",
    "logs.py: self._find": "likewise",
    "repairs.py: what.table": "a field of the constants of `_Sums` in that file",
    "repairs.py: what.source": "likewise",
    "repairs.py: what.key": "likewise",
    "repairs.py: what.numbers": "likewise",
    "repairs.py: what.highest": "likewise",
    "repairs.py: what.lowest": "likewise",
    "repairs.py: fetchall()": "the triggers of the database itself, as it says them; who can write those needs no SQL",
    "rollup_checks.py: family.added": "a field of the constants `SUMS`, `BANDS`, `ERRORS`",
    "rollup_checks.py: family.highest": "likewise",
    "rollup_checks.py: family.lowest": "likewise",
    "rollup_checks.py: family.numbers": "likewise",
    "rollup_checks.py: table.key": "made by a family, of its constants",
    "rollup_checks.py: table.name": "likewise",
    "rollup_checks.py: table.source": "likewise",
    "rollups.py: kind.level": "a field of the constant kinds of a family",
    "rollups.py: kind.scope": "likewise",
    "rollups.py: self.extra": "a field of the constants `SUMS`, `BANDS`, `ERRORS`",
    "rollups.py: self.suffix": "likewise",
    "rollup_reads.py: self.numbers": "likewise",
    "rollup_reads.py: numbers": "of a family, from the methods of that class",
    "rollup_reads.py: order": "from `cells` of that class: constants and an `int`",
    "rollup_reads.py: by": "checked in `_source` to be columns of the table's key",
    "rollup_reads.py: each.bound": "the values beside the SQL",
    "rollup_reads.py: each.table": "made by `_source` of a family's constants",
    "rollup_reads.py: each.where": "made by `_source` and `_at` with `conjunction`",
    "rollup_reads.py: _Rows()": "likewise",
    "traces.py: order": "from the methods of that class: `_NEWEST` and an entry of a table",
    "api_tokens.py: terms": "from the two callers in that class, made by `conjunction`",
    "balances.py: which.now": "the values beside the SQL",
    "balances.py: which.status": "likewise",
    "users.py: which.now": "likewise",
    "users.py: which.status": "likewise",
    "schema.py: statements": "the constants of the migrations",
    "usage.py: decode()": "the names of the columns of one of our tables",
    "writer.py: fetchone()": "the number that a PRAGMA has just answered",
}
"""What the code does not show to be closed, and why it is."""


def test_every_open_part_of_a_statement_was_judged() -> None:
    """And what was judged is still there."""
    read = Reader(sorted(SQLITE.glob("*.py")))

    assert read.open_parts() == set(JUDGED)
    assert read.statements() > 200


@pytest.mark.parametrize(
    "line",
    [
        "session.query(f\"SELECT 1 FROM users WHERE name = '{which.name}'\")",
        "session.query('SELECT 1 FROM users ORDER BY ' + order)",
        "session.query('SELECT 1 FROM users WHERE name = %s' % name)",
        "session.query('SELECT 1 FROM users WHERE name = {}'.format(name))",
        "table.rows(f'users WHERE {terms}')",
        "terms, _ = conjunction({f'name = {name}': 1}); table.rows(f'users WHERE {terms}')",
        "by = order; connection.execute(f'SELECT 1 FROM users ORDER BY {by}')",
        "table.rows(where=name)",
    ],
)
def test_what_is_spliced_in_is_noticed(line: str, tmp_path: Path) -> None:
    """However it gets there."""
    module = tmp_path / "planted.py"
    module.write_text(f"def page(session, table, connection, which, name, order, terms):\n    {line}\n")

    assert Reader([module]).open_parts() != set()


def test_sql_is_nowhere_but_in_the_store() -> None:
    """So there is nothing to judge in any other module."""
    foreign = {
        str(file.relative_to(SRC))
        for file in SRC.rglob("*.py")
        if SQLITE not in file.parents
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"execute", "executemany", "executescript"}
    }

    assert foreign == set()

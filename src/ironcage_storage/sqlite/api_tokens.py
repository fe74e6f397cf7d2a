"""API tokens, what they have used, and the list of tokens of both kinds."""

from collections.abc import Mapping, Sequence
from typing import Final

from ironcage_core.domain.api_tokens import ApiToken, TokenUse
from ironcage_core.domain.instants import Instant, day_of
from ironcage_core.domain.money import Micros
from ironcage_core.ports.lists import ApiTokenFilter, ApiTokenOrder, Page, Paging, TokenFilter
from ironcage_core.ports.totals import TokenEntry
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Pending, Session
from ironcage_storage.sqlite.totals import agent_totals

MS_PER_MINUTE: Final = 60_000
MINUTES_PER_HOUR: Final = 60
REMEMBERED_HASHES: Final = 10_000

_STATUS: Final = """CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN rotated_at IS NOT NULL THEN 'rotated'
    WHEN expires_at <= ? THEN 'expired' WHEN is_active = 1 THEN 'active' ELSE 'inactive' END"""
_ORDERS: Final[Mapping[ApiTokenOrder, str]] = {
    "name": "name COLLATE NOCASE",
    "created_at": "created_at",
    "last_used_at": "coalesce(last_used_at, 0)",
    "expires_at": f"coalesce(expires_at, {2**62})",  # what never ends, ends last
}
# An agent that was deleted is in no list, and so is the IC token that went with it.
_ENTRIES: Final = f"""SELECT id, 'api' AS kind, name, user_id AS owner_id, agent_id, project_id, {_STATUS} AS status,
        created_at, user_id AS created_by, last_used_at, expires_at FROM api_tokens
    UNION ALL SELECT t.id, 'ic', a.name, a.owner_id, t.agent_id, a.project_id,
        CASE WHEN t.status = 'active' AND t.expires_at <= ? THEN 'expired' ELSE t.status END,
        t.created_at, t.created_by, t.last_used_at, t.expires_at
        FROM ic_tokens t JOIN agents a ON a.id = t.agent_id WHERE a.deleted_at IS NULL"""


class SqliteApiTokens:
    """Implements `ApiTokens`.

    Args:
        session: Where it belongs.
        ic_tokens: The other tokens, which the list of all kinds reads.
        agents: Theirs.
    """

    def __init__(self, session: Session, ic_tokens: Pending, agents: Pending) -> None:
        self.table: Table[ApiToken] = Table(
            session,
            "api_tokens",
            ApiToken,
            constant=("hash", "lineage", "user_id", "agent_id", "hint", "created_at", "rotated_from"),
            indexed=("project_id", "replaced_by"),
        )
        self._ids: dict[str, str] = {}
        self._session = session
        self._others = (ic_tokens, agents)

    def find(self, token_id: str) -> ApiToken | None:
        """Return the token with this id."""
        return self.table.get(token_id)

    def find_by_hash(self, value_hash: str) -> ApiToken | None:
        """Return the token whose value has this SHA-256."""
        # The hash of a token never changes, so its id may be remembered; what it is good for may not.
        token_id = self._ids.get(value_hash)
        known = None if token_id is None else self.table.get(token_id)
        if known is not None and known.hash == value_hash:
            return known
        where = "api_tokens WHERE hash = ?"
        rows = self.table.unsettled_rows(where, (value_hash,), lambda token: token.hash == value_hash)
        if not rows:
            return None
        if len(self._ids) >= REMEMBERED_HASHES:
            self._ids.clear()
        self._ids[value_hash] = rows[0].id
        return rows[0]

    def unended_of(self, user_id: str) -> Sequence[ApiToken]:
        """Return the user's tokens that are neither revoked nor rotated, oldest first; expired ones included."""
        where = "api_tokens WHERE user_id = ? AND revoked_at IS NULL AND rotated_at IS NULL ORDER BY id"
        return self.table.rows(where, (user_id,))

    def unended_of_agent(self, agent_id: str) -> Sequence[ApiToken]:
        """Return the tokens bound to the agent that are neither revoked nor rotated, oldest first."""
        where = "api_tokens WHERE agent_id = ? AND revoked_at IS NULL AND rotated_at IS NULL ORDER BY id"
        return self.table.rows(where, (agent_id,))

    def put(self, token: ApiToken) -> None:
        """Store the token, new or changed."""
        self.table.put(token)

    def page(
        self, which: ApiTokenFilter, paging: Paging, order: ApiTokenOrder = "created_at", *, descending: bool = True
    ) -> Page[ApiToken]:
        """Return tokens, newest first unless told otherwise."""
        terms, parameters = conjunction(
            {
                "user_id = ?": which.user_id,
                "project_id = ?": which.project_id,
                "agent_id = ?": which.agent_id,
                "instr(fold(name), fold(?)) > 0": which.name,
            }
        )
        if which.status is not None:
            terms, parameters = f"{terms} AND {_STATUS} = ?", (*parameters, which.now, which.status)
        by = f"{_ORDERS[order]} {'DESC' if descending else 'ASC'}, id DESC"
        where = f"api_tokens WHERE {terms} ORDER BY {by} LIMIT ? OFFSET ?"
        rows = self.table.rows(where, (*parameters, paging.per_page, paging.offset))
        return Page(rows, self._count(terms, parameters))

    def page_of_all_kinds(self, which: TokenFilter, paging: Paging) -> Page[TokenEntry]:
        """Return API tokens and IC tokens together, newest first."""
        terms, chosen = conjunction(
            {
                "kind = ?": which.kind,
                "owner_id = ?": which.owner_id,
                "agent_id = ?": which.agent_id,
                "project_id = ?": which.project_id,
                "status = ?": which.status,
                "instr(fold(name), fold(?)) > 0": which.search,
            }
        )
        parameters = (which.now, which.now, *chosen)
        reads = (self.table, *self._others)
        sql = f"SELECT * FROM ({_ENTRIES}) WHERE {terms} ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?"
        cursor = self._session.query(sql, (*parameters, paging.per_page, paging.offset), *reads)
        rows = [TokenEntry._make(row) for row in cursor]
        if which.agent_id is which.status is which.search is None:
            return Page(rows, self._kept_count(which))
        sql = f"SELECT count(*) FROM ({_ENTRIES}) WHERE {terms}"
        (total,) = self._session.query(sql, parameters, *reads).fetchone()
        return Page(rows, total)

    def _kept_count(self, which: TokenFilter) -> int:
        """Return the number of tokens by kind, owner and project alone; those of agents are not counted anew."""
        total = 0
        if which.kind != "ic":
            total += self._count(*conjunction({"user_id = ?": which.owner_id, "project_id = ?": which.project_id}))
        if which.kind != "api":
            owner_id, project_id = which.owner_id, which.project_id
            total += agent_totals(self._session, *self._others, owner_id=owner_id, project_id=project_id).ic_tokens
        return total

    def _count(self, terms: str, parameters: Sequence[object]) -> int:
        sql = f"SELECT count(*) FROM api_tokens WHERE {terms}"
        (total,) = self._session.query(sql, parameters, self.table).fetchone()
        return int(total)


class SqliteTokenUsage:
    """Implements `TokenUsage`: sums by day for ever, requests by minute for as long as they count."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add_requests(self, lineage: str, at: Instant, requests: int) -> None:
        """Count requests made at about this time."""
        self._add(lineage, at, requests=requests)
        sql = """INSERT INTO token_minutes (lineage, minute, requests) VALUES (?, ?, ?)
            ON CONFLICT (lineage, minute) DO UPDATE SET requests = requests + excluded.requests"""
        self._session.execute(sql, (lineage, at // MS_PER_MINUTE, requests))

    def add_calls(self, lineage: str, at: Instant, *, tokens: int, cost: Micros) -> None:
        """Add LLM tokens and cost in micro-USD."""
        self._add(lineage, at, tokens=tokens, cost=cost)

    def _add(self, lineage: str, at: Instant, *, requests: int = 0, tokens: int = 0, cost: Micros = 0) -> None:
        sql = """INSERT INTO token_usage (lineage, day, requests, tokens, cost_micros) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (lineage, day) DO UPDATE SET requests = requests + excluded.requests,
            tokens = tokens + excluded.tokens, cost_micros = cost_micros + excluded.cost_micros"""
        self._session.execute(sql, (lineage, day_of(at), requests, tokens, cost))

    def of(self, lineage: str, now: Instant) -> TokenUse:
        """Return what is stored of a lineage's use."""
        today, minute = day_of(now), now // MS_PER_MINUTE
        sql = """SELECT coalesce(sum(requests), 0), coalesce(sum(CASE WHEN day = ? THEN requests END), 0),
                coalesce(sum(tokens), 0), coalesce(sum(CASE WHEN day = ? THEN tokens END), 0),
                coalesce(sum(cost_micros), 0), coalesce(sum(CASE WHEN day = ? THEN cost_micros END), 0)
            FROM token_usage WHERE lineage = ?"""
        days = self._session.query(sql, (today, today, today, lineage)).fetchone()
        sql = "SELECT coalesce(sum(requests), 0) FROM token_minutes WHERE lineage = ? AND minute > ? AND minute <= ?"
        (last_hour,) = self._session.query(sql, (lineage, minute - MINUTES_PER_HOUR, minute)).fetchone()
        return TokenUse(days[0], days[1], last_hour, *days[2:])

    def forget_minutes(self, before: Instant) -> None:
        """Drop the counts by minute from before an instant; those by day stay."""
        self._session.execute("DELETE FROM token_minutes WHERE minute < ?", (before // MS_PER_MINUTE,))

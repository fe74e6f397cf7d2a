"""The collection of usage: one record per call, and the rollups that are moved with each.

`find_x` gives None where there is nothing.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, Protocol

from ironcage_core.domain.histograms import Measure
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import Micros
from ironcage_core.domain.usage import KeptCall, UsageRecord, UsageSums
from ironcage_core.ports.lists import (
    HorizonOf,
    Page,
    Paging,
    TraceFilter,
    UsageBucket,
    UsageDimension,
    UsageFilter,
)
from ironcage_core.ports.totals import ErrorSums, LeaseReports, NumberDifference, ReceivedTokens, UsageCell

AliasKind = Literal["event", "uuid", "request"]
"""What another name of a call is: an event's id, 32 hex digits, or a request id that was some other call's key."""


class Usage(Protocol):
    """One record per call."""

    def expect(self, agent_id: str, call_keys: Sequence[str], event_ids: Sequence[str] = ()) -> None:
        """Be told that calls will be looked for by these names, so that they can be fetched together.

        Args:
            agent_id: Whose calls.
            call_keys: By key; also by UUID, where there is one.
            event_ids: Those of the keys by which events are looked for.
        """
        ...

    def find_alias(self, agent_id: str, kind: AliasKind, name: str) -> str | None:
        """Return the key of the call with this other name; nothing need be found there any more."""
        ...

    def add_alias(self, agent_id: str, kind: AliasKind, name: str, call_key: str) -> None:
        """Give a call another name, unless some call has it already."""
        ...

    def find(self, agent_id: str, call_key: str) -> UsageRecord | None:
        """Return the record of a call."""
        ...

    def find_kept(self, agent_id: str, call_key: str) -> KeptCall | None:
        """Return what was kept of a call whose record was purged; costs nothing as long as nothing was."""
        ...

    def put_kept(self, call: KeptCall) -> None:
        """Store what is kept of a purged call, changed."""
        ...

    def restore(self, record: UsageRecord) -> None:
        """Put a record in the place of what was kept of its call; the rollups have it already."""
        ...

    def put(self, record: UsageRecord) -> None:
        """Store the record, new or changed, and move the rollups by the difference."""
        ...

    def reported_by_lease(self, agent_id: str) -> Sequence[LeaseReports]:
        """Return the sum of reported cost per lease, purged records included; for verification."""
        ...

    def unreported_by_lease(self, agent_id: str) -> Sequence[LeaseReports]:
        """Return the sum of the cost of calls without a report per lease, purged ones included; for verification."""
        ...

    def received(self, since: Instant, until: Instant) -> Mapping[tuple[str, str], ReceivedTokens]:
        """Return the tokens of the reports of a time of receipt by (owner_id, project_id); for verification.

        When a call was received of which only the key is kept, nobody knows; it counts if its lease was charged later
        than `since`.
        """
        ...

    def rollup_differences(self) -> Iterator[NumberDifference]:
        """Yield every number of the rollups that is not what the records, as far as they reach, add up to."""
        ...

    def sums(self, which: UsageFilter, by: Sequence[UsageDimension] = ()) -> Mapping[tuple[str, ...], UsageSums]:
        """Return sums from the rollups by the values of `by`; calls of no provider key have `provider_id` ''.

        A group without any call is left out. Costs as much as there are days and dimensions, not calls.
        """
        ...

    def groups(self, which: UsageFilter, by: Sequence[UsageDimension]) -> Collection[tuple[str, ...]]:
        """Return the values of `by` that there is any call of, each once; cheaper than their sums."""
        ...

    def series(
        self, which: UsageFilter, bucket: UsageBucket, by: Sequence[UsageDimension] = ()
    ) -> Mapping[tuple[Instant, tuple[str, ...]], UsageSums]:
        """Return sums of calls, tokens and cost by where their UTC hour or day starts, and by the values of `by`.

        In no order, and without durations, extremes and the time of the last call.

        A bucket or group without any call is left out. The filter's time is in whole buckets.
        """
        ...

    def cells(self, which: UsageFilter, bucket: UsageBucket, limit: int) -> Sequence[tuple[UsageCell, UsageSums]]:
        """Return at most `limit` of the finest sums there are by hour or day, in the order of their fields.

        One of each (bucket, agent, project, provider, provider key, model), whoever owned the agent then.
        """
        ...

    def bands(self, which: UsageFilter, of: Measure) -> Mapping[int, int]:
        """Return how many calls lie in each band of the histogram of a measure; empty bands are left out."""
        ...

    def steps(self, which: UsageFilter, of: Measure, band: int) -> Sequence[int]:
        """Return how many calls lie in each step of one band, as many numbers as a band has steps."""
        ...

    def errors(self, which: UsageFilter) -> Mapping[tuple[str, str], ErrorSums]:
        """Return the failed calls by (error code, provider); from the rollups."""
        ...

    def costs(self, which: UsageFilter, limit: int) -> Sequence[Micros] | None:
        """Return the cost of each completed call, rising.

        None if that would mean to look at more than `limit` records, or if some of them are not kept any more.
        """
        ...

    def first_day(self, which: UsageFilter) -> Instant | None:
        """Return where the first UTC day with a call starts, whatever the filter says of time; None for no call."""
        ...

    def first_at(self, which: UsageFilter) -> Instant | None:
        """Return when the first call was; where that day starts, if its records are not kept; None for no call."""
        ...

    def find_trace(self, trace_id: str) -> UsageRecord | None:
        """Return the record with this id, unless it is older than what is kept."""
        ...

    def page(self, which: TraceFilter, paging: Paging, *, descending: bool = True) -> Page[UsageRecord]:
        """Return records by the time of their call, the latest first unless told otherwise; ties by id, descending.

        Records that are older than what is kept are neither shown nor counted.
        """
        ...

    def before(self, which: TraceFilter, record: UsageRecord, limit: int) -> Sequence[UsageRecord]:
        """Return at most `limit` records that stand behind one in the list of the latest first."""
        ...

    def calls_since(self, agent_id: str, since: Instant, project_id: str | None = None) -> int:
        """Return how many calls the agent has made since an instant that the records still reach."""
        ...

    def horizon(self, what: HorizonOf) -> Instant:
        """Return from when on the records, or the rollups by hour, are kept; 0 means all of them."""
        ...

    def advance_horizon(self, what: HorizonOf, since: Instant) -> None:
        """Let nobody see what is older than `since`, the start of a UTC day, any more; it never goes back."""
        ...

    def purge_records(self, limit: int) -> int:
        """Remove at most `limit` records from before their horizon, keep their calls, and return how many it were."""
        ...

    def purge_keys(self, before: Instant, limit: int) -> Sequence[KeptCall]:
        """Forget and return at most `limit` purged calls from before an instant that were never reported.

        All their names are forgotten with them.
        """
        ...

    def purge_hours(self, limit: int) -> int:
        """Remove at most `limit` rows of the rollups by hour from before their horizon; return how many it were."""
        ...

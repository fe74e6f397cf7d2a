"""Metrics for Prometheus: how requests go, what becomes of money, and how the process and its database stand.

Labels are route templates, methods, statuses, codes and some ids of provider keys: never a name somebody typed, never
an unbounded set. Money is counted in micro-USD.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Final, Literal, get_args

from litestar.types import HTTPScope
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ironcage_core.domain.money import Micros
from ironcage_core.errors.resources import UsageLimitExceededError
from ironcage_core.errors.tree import ForbiddenError
from ironcage_core.ports.storage import Store

Grant = Literal["handshake", "refresh"]
Asking = Literal["handshake", "refresh", "reserve"]
Fate = Literal["accepted", "duplicate", "conflict", "rejected"]

_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_OPEN: Final = ("active", "expired")
_MOST_NAMED: Final = 100


class Metrics:
    """The counters of one app; `registry` holds them, `labels` names the labels of each.

    Args:
        queue_depth: Tells how many writes wait now.
    """

    def __init__(self, queue_depth: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.labels: dict[str, Sequence[str]] = {}
        self._add_requests()
        self._add_money()
        self._add_events()
        self._add_secrets()
        self._gauge("ironcage_write_queue_depth", "Writes that wait for their commit").set_function(queue_depth)
        self._batches = self._histogram("ironcage_write_batch_size", "Writes that shared a commit", _BATCHES)
        self._build = self._gauge("ironcage_build_info", "1, with what is running", "version", "commit", "mode")
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def _add_requests(self) -> None:
        self._requests = self._counter("ironcage_requests", "Answered requests", "method", "route", "status")
        self._seconds = self._histogram(
            "ironcage_request_seconds", "Time to the first byte of an answer", _BUCKETS_S, "route"
        )
        # Looking a child up by its labels costs more than counting; there are as many as routes times statuses.
        self._children = lru_cache(maxsize=1024)(self._counters)

    def _add_money(self) -> None:
        grants = self._counter("ironcage_grants", "Leases that were granted", "kind")
        granted = self._counter("ironcage_granted_micro_usd", "New money that was lent", "kind")
        self._grants = {kind: (grants.labels(kind), granted.labels(kind)) for kind in get_args(Grant)}
        self._denials = self._counter(
            "ironcage_money_denials", "Requests for money that were denied, by code or reason", "call", "code"
        )
        reports = self._counter("ironcage_reports", "Reports by what became of them", "outcome")
        self._reports = {fate: reports.labels(fate) for fate in get_args(Fate)}
        self._overspends = self._counter("ironcage_overspends", "Reports that cost more than their lease held")
        self._overspent = self._counter("ironcage_overspent_micro_usd", "What reports cost beyond their leases")
        self._leases = self._gauge("ironcage_open_leases", "Leases that are not over yet", "status")
        self.tell_leases(None)

    def _add_events(self) -> None:
        self._events = self._counter("ironcage_events", "Events of runtimes by what became of them", "route", "status")
        self._mismatches = self._counter("analytics_cost_mismatch", "Events whose cost is not the reported one")
        self._sockets = self._gauge("ironcage_feed_connections", "Open connections of the live feed")
        self._messages = self._counter("ironcage_feed_messages", "Messages sent on the live feed")
        self._slow = self._counter("ironcage_feed_slow_consumers", "Connections closed because they were too slow")

    def _add_secrets(self) -> None:
        self._undecryptable = self._gauge("ironcage_undecryptable_secrets", "Stored secrets that do not decrypt")
        self._undecryptable.set(math.nan)  # until somebody has looked
        self._undecryptable_ids = self._gauge(
            "ironcage_undecryptable_secret", "1 for each provider key whose secret does not decrypt", "provider_key"
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        self.labels[name] = labels
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        self.labels[name] = labels
        return Gauge(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float], *labels: str) -> Histogram:
        self.labels[name] = labels
        return Histogram(name, meaning, labels, buckets=buckets, registry=self.registry)

    def watch_store(self, store: Store) -> None:
        """Count the batches of a store, and ask it for its numbers whenever somebody looks."""
        store.on_batch(self._batches.observe)
        self.registry.register(_Refusals(store))
        size = self._gauge("ironcage_database_bytes", "Size of the database file")
        size.set_function(lambda: store.file_sizes[0])
        log = self._gauge("ironcage_database_log_bytes", "Size of the write-ahead log beside the database file")
        log.set_function(lambda: store.file_sizes[1])

    def tell_build(self, version: str, commit: str, mode: str) -> None:
        """Say what is running."""
        self._build.labels(version, commit, mode).set(1)

    def watch_feed(self, connections: Callable[[], int]) -> None:
        """Ask, whenever somebody looks, how many connections of the live feed are open."""
        self._sockets.set_function(connections)

    def count_feed_messages(self, messages: int) -> None:
        """Count a message sent on the live feed."""
        self._messages.inc(messages)

    def count_slow_consumer(self) -> None:
        """Count a connection that was closed because it was too slow."""
        self._slow.inc()

    def tell_leases(self, by_status: Mapping[str, int] | None) -> None:
        """Say how many leases each status has; None if that cannot be told."""
        for status in _OPEN:
            self._leases.labels(status).set(math.nan if by_status is None else by_status.get(status, 0))

    def tell_undecryptable(self, key_ids: Sequence[str]) -> None:
        """Say which provider keys' secrets do not decrypt; of very many only the first are named."""
        self._undecryptable.set(len(key_ids))
        self._undecryptable_ids.clear()
        for key_id in key_ids[:_MOST_NAMED]:
            self._undecryptable_ids.labels(key_id).set(1)

    @contextmanager
    def asking(self, call: Asking) -> Iterator[None]:
        """Count it if a request for money is denied."""
        try:
            yield
        except (ForbiddenError, UsageLimitExceededError) as refusal:
            self.count_denial(call, refusal.code)
            raise

    def count_denial(self, call: Asking, code: str) -> None:
        """Count a request for money that was denied."""
        self._denials.labels(call, code).inc()

    def count_grant(self, kind: Grant, new_money: Micros) -> None:
        """Count a lease that was granted, and the money that was lent with it."""
        grants, granted = self._grants[kind]
        grants.inc()
        granted.inc(new_money)

    def count_report(self, fate: Fate, overspent: Micros) -> None:
        """Count a report, and what it cost beyond its lease."""
        self._reports[fate].inc()
        if overspent and fate == "accepted":
            self._overspends.inc()
            self._overspent.inc(overspent)

    def count_events(self, route: str, statuses: Sequence[str], mismatches: int) -> None:
        """Count events that were taken in or refused, and how many of them named another cost than the report."""
        for status in set(statuses):
            self._events.labels(route, status).inc(statuses.count(status))
        self._mismatches.inc(mismatches)

    def count(self, scope: HTTPScope, status: int, seconds: float) -> None:
        """Count one answer."""
        route = str(scope.get("path_template") or "unknown")
        answers, times = self._children(scope["method"] if route != "unknown" else "any", route, status)
        answers.inc()
        times.observe(seconds)

    def _counters(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        return self._requests.labels(method, route, status), self._seconds.labels(route)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Refusals(Collector):
    """What a store itself counts."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        """Ask the store."""
        meaning = "Writes that were refused because too many waited"
        yield CounterMetricFamily("ironcage_write_queue_refusals", meaning, value=self._store.refused_writes)

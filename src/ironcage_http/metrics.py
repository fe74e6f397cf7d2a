"""Metrics for Prometheus: requests by route and status, their time, how many writes wait, which secrets do not open.

Labels are route templates, methods, statuses and some ids of provider keys: never a name somebody typed, never an
unbounded set.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from litestar.types import HTTPScope
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_MOST_NAMED: Final = 100


class Metrics:
    """The counters of one app.

    Args:
        queue_depth: Tells how many writes wait now.
    """

    def __init__(self, queue_depth: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ironcage_requests", "Answered requests", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "ironcage_request_seconds",
            "Time to the first byte of an answer",
            ["route"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._events = Counter(
            "ironcage_events", "Events of runtimes by what became of them", ["route", "status"], registry=self._registry
        )
        self._mismatches = Counter(
            "analytics_cost_mismatch", "Events whose cost is not the reported one", registry=self._registry
        )
        # Looking a child up by its labels costs more than counting; there are as many as routes times statuses.
        self._children = lru_cache(maxsize=1024)(self._counters)
        depth = Gauge("ironcage_write_queue_depth", "Writes that wait for their commit", registry=self._registry)
        depth.set_function(queue_depth)
        self._undecryptable = Gauge(
            "ironcage_undecryptable_secrets", "Stored secrets that do not decrypt", registry=self._registry
        )
        self._undecryptable.set(math.nan)  # until somebody has looked
        self._undecryptable_ids = Gauge(
            "ironcage_undecryptable_secret",
            "1 for each provider key whose secret does not decrypt",
            ["provider_key"],
            registry=self._registry,
        )

        self._sockets = Gauge("ironcage_feed_connections", "Open connections of the live feed", registry=self._registry)
        self._messages = Counter("ironcage_feed_messages", "Messages sent on the live feed", registry=self._registry)
        self._slow = Counter(
            "ironcage_feed_slow_consumers", "Connections closed because they were too slow", registry=self._registry
        )

    def watch_feed(self, connections: Callable[[], int]) -> None:
        """Ask, whenever somebody looks, how many connections of the live feed are open."""
        self._sockets.set_function(connections)

    def count_feed_messages(self, messages: int) -> None:
        """Count a message sent on the live feed."""
        self._messages.inc(messages)

    def count_slow_consumer(self) -> None:
        """Count a connection that was closed because it was too slow."""
        self._slow.inc()

    def tell_undecryptable(self, key_ids: Sequence[str]) -> None:
        """Say which provider keys' secrets do not decrypt; of very many only the first are named."""
        self._undecryptable.set(len(key_ids))
        self._undecryptable_ids.clear()
        for key_id in key_ids[:_MOST_NAMED]:
            self._undecryptable_ids.labels(key_id).set(1)

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
        return generate_latest(self._registry)

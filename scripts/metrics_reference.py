"""Make docs/reference/metrics.md from the registry that /metrics shows, so that the page cannot be wrong."""

from pathlib import Path

from prometheus_client import Metric

from ironcage_http.metrics import Metrics
from ironcage_storage.sqlite.store import SqliteStore

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "metrics.md"
HEAD = """# Metrics

`GET /metrics` answers in Prometheus' text format: to a peer on the same machine, to an admin, and to whoever bears the
token of `IRON_METRICS_TOKEN`. Counters begin at 0 with each start of the server; they count what this process has done.
Money is in micro-USD: 1 USD is 1,000,000. Labels hold route templates, methods, statuses, codes and ids of provider
keys, never what somebody typed. [Watch the server](../how-to/watch-the-server.md) says which to alert on.

A counter's samples end in `_total`; a histogram has samples with `_bucket` (and the label `le`), `_sum` and `_count`.
Beside most counters and histograms stands a gauge whose name ends in `_created`: since when it counts.
`process_*` is there on Linux only. `python_gc_*` tells of Python's garbage collector, by generation.

This page is made by `python scripts/metrics_reference.py`.

| metric | kind | labels | meaning |
|---|---|---|---|
"""


def page() -> str:
    """Return the page's text."""
    metrics = Metrics(lambda: 0)
    with SqliteStore(":memory:") as store:
        metrics.watch_store(store)
        found = sorted(metrics.registry.collect(), key=lambda metric: metric.name)
        return HEAD + "".join(_row(metric, metrics) for metric in found)


def _row(metric: Metric, metrics: Metrics) -> str:
    own = metrics.labels.get(metric.name)
    labels = own if own is not None else sorted({label for sample in metric.samples for label in sample.labels})
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    meaning = metric.documentation.rstrip(".")
    return f"| `{name}` | {metric.type} | {', '.join(f'`{label}`' for label in labels) or '-'} | {meaning} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())

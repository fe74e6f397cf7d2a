"""Rewrite the bundled price table from the price map inside the `litellm` package, which is read but never installed.

Run `python scripts/update_prices.py`, then read the diff: one model a line, sorted. Left out are hosts that resell
models, entries whose prices are not exact, and entries priced 0, because there 0 means unknown more often than free.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from zipfile import ZipFile

from ironcage_core.domain.price_tables import PRICE_UNIT, parse_usd_per_token_table
from ironcage_core.domain.prices import ModelPrice, PriceTable

PACKAGE: Final = "litellm"
MEMBER: Final = "litellm/model_prices_and_context_window_backup.json"
TARGET: Final = Path(__file__).parents[1] / "src" / "ironcage_storage" / "data" / "prices.json"
PROVIDERS: Final = frozenset(
    {
        "ai21", "amazon_nova", "anthropic", "azure", "azure_ai", "bedrock", "bedrock_converse", "cerebras",
        "codestral", "cohere", "cohere_chat", "dashscope", "deepseek", "gemini", "groq", "meta", "minimax", "mistral",
        "moonshot", "openai", "perplexity", "text-completion-openai", "vertex_ai-anthropic_models",
        "vertex_ai-embedding-models", "vertex_ai-language-models", "voyage", "xai", "zai",
    }
)  # fmt: skip


def download(folder: Path) -> Path:
    """Fetch the newest wheel of the package into `folder` and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), PACKAGE], check=True)  # noqa: S603 - every word is ours
    (wheel,) = folder.glob("*.whl")
    return wheel


def read_wheel(wheel: Path, *, date: str) -> PriceTable:
    """Return the table to bundle from the price map in a wheel.

    Args:
        wheel: A wheel of the package; its name holds the version.
        date: The day it was fetched, `YYYY-MM-DD`.
    """
    with ZipFile(wheel) as archive:
        text = archive.read(MEMBER).decode()
    table = parse_usd_per_token_table(text, source=f"{PACKAGE} ({MEMBER})", strict=False)
    providers = {model: entry.get("litellm_provider") for model, entry in json.loads(text).items()}
    models = {m: p for m, p in table.items() if providers[m] in PROVIDERS and (p.input or p.output)}
    return replace(table, models=models, version=wheel.name.split("-")[1], date=date)


def render(table: PriceTable) -> str:
    """Return the file of a table: one model a line, sorted, without absent prices."""
    head = {"source": table.source, "version": table.version, "date": table.date, "unit": PRICE_UNIT}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    models = ",\n".join(f"{json.dumps(name)}: {_compact(price)}" for name, price in sorted(table.items()))
    return "\n".join(["{", *lines, '"models": {', models, "}", "}", ""])


def _compact(price: ModelPrice) -> str:
    known: Mapping[str, int] = {name: value for name, value in asdict(price).items() if value is not None}
    return json.dumps(known, separators=(",", ":"))


def main() -> None:
    """Fetch, convert, write, and say what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        table = read_wheel(download(Path(folder)), date=datetime.now(UTC).date().isoformat())
    text = render(table)
    TARGET.write_text(text, encoding="utf-8")
    print(f"{PACKAGE} {table.version}: {len(table)} models, {len(text)} bytes; {table.skipped} wrong entries left out")


if __name__ == "__main__":
    main()

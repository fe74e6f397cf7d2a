"""A runtime and a control plane that are killed at any moment: in the end the ledger is the provider's bill."""

import json
import random
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ironcage_core.domain.prices import TokenCounts
from ironcage_core.ports.lists import Paging, TraceFilter
from ironcage_core.services.verify import verify
from ironcage_storage.prices import bundled_prices
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.fake_llm import Billed, FakeLlm
from tests.support.processes import ROOT
from tests.support.runtime import MODEL, read_bill
from tests.support.servers import PATIENCE_S, ServerProcess

PASSWORD = "a password of the test"
KEY = "sk-of-the-provider-0123456789"
CYCLES = 6


class WrittenBill(FakeLlm):
    """A provider that writes its bill to a file before it answers, where a runtime can look it up."""

    path: Path

    def charge(self, request_id: str, model: str, *, has_output: bool) -> TokenCounts:
        with self._lock:
            assert request_id not in self.bill, "two calls under one name"
            counts = TokenCounts(input=20 + len(self.bill) % 61, output=1 + len(self.bill) % 100 * has_output)
            self.bill[request_id] = Billed(model, counts)
            with self.path.open("a") as file:
                file.write(json.dumps({"id": request_id, "counts": asdict(counts)}) + "\n")
        return counts


def hired(server: ServerProcess, provider: FakeLlm) -> dict[str, Any]:
    """Return an agent with $50 and the key of the provider."""

    def send(path: str, body: dict[str, Any], credential: str = "none") -> dict[str, Any]:
        reply = server.ask("POST", path, body, {"Authorization": f"Bearer {credential}"})
        assert reply.status < 300, reply.raw
        made: dict[str, Any] = reply.body
        return made

    admin = send("/auth/login", {"username": "admin@test.io", "password": PASSWORD})["access_token"]
    key = send("/providers", {"provider": "openai", "api_key": KEY, "base_url": provider.url}, admin)["id"]
    return send("/agents", {"name": "runtime", "budget": 50, "providers": [key]}, admin)


def launched(job: dict[str, Any], said: Path) -> subprocess.Popen[bytes]:
    with said.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.runtime"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job).encode())
    process.stdin.close()
    return process


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_ledger_is_the_bill_whoever_is_killed(tmp_path: Path, seed: int) -> None:
    """Each call of the bill is in the books with its tokens and its cost, and nothing else is; no hold is left."""
    draw = random.Random(seed)  # noqa: S311 - a test that can be repeated
    said, bill = tmp_path / "runtime.txt", tmp_path / "bill.jsonl"
    bill.touch()
    server = ServerProcess(tmp_path, IRON_ADMIN_EMAIL="admin@test.io", IRON_ADMIN_PASSWORD=PASSWORD)
    provider = WrittenBill(KEY)
    provider.path = bill
    with provider, server:
        agent = hired(server, provider)
        job = {
            "url": f"http://127.0.0.1:{server.port}", "token": agent["ic_token"]["token"], "provider": provider.url,
            "outbox": str(tmp_path / "outbox"), "bill": str(bill), "seconds": 60, "patience": PATIENCE_S, "seed": seed,
        }  # fmt: skip
        runtime = launched(job, said)
        for cycle in range(CYCLES):
            time.sleep(draw.uniform(0.8, 2.5))
            kills_server, kills_runtime = draw.choice([(True, False), (False, True), (True, True)])
            if kills_server:
                server.kill()
            if kills_runtime:
                runtime.kill()
                runtime.wait(PATIENCE_S)
            time.sleep(draw.uniform(0.2, 0.8))  # what was under way at the provider is on its bill
            if kills_server:
                server.launch()
                server.wait_until_it_answers()
            if kills_runtime:
                runtime = launched({**job, "seed": seed + 100 * cycle}, said)
        runtime.kill()
        runtime.wait(PATIENCE_S)
        time.sleep(0.3)
        assert launched({**job, "seconds": 0}, said).wait(60) == 0, said.read_text()
        assert server.terminate() == 0

    billed = read_bill(bill)
    with SqliteStore(tmp_path / "iron.db") as store:
        assert store.read(verify).differences == []
        balance = store.read(lambda uow: uow.balances.find(agent["id"]))
        booked: dict[str | None, tuple[int, int, int]] = {}
        for page in range(1, len(billed) // 100 + 2):
            paging = Paging(page, 100)
            rows = store.read(lambda uow, paging=paging: uow.usage.page(TraceFilter(agent["id"]), paging)).rows  # type: ignore[misc]
            booked |= {row.request_id: (row.input_tokens, row.output_tokens, row.cost_micros) for row in rows}
    prices = bundled_prices()
    expected = {name: (used.input, used.output, prices.cost(MODEL, used)) for name, used in billed.items()}
    assert len(expected) > 50
    assert booked == expected
    assert balance is not None
    assert balance.spent == sum(cost or 0 for _, _, cost in expected.values())
    assert (balance.held, balance.overspent) == (0, 0)

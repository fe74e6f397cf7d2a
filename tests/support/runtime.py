"""A runtime in a process of its own: `python tests/support/runtime.py`, with a job as JSON on its standard input.

It spends until its time is over, or until somebody kills it. What a call used whose end a killed runtime never saw, it
looks up in the provider's bill.
"""

import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ironcage_core.domain.prices import TokenCounts
from ironcage_http.client import session
from ironcage_http.client_outbox import Intent
from ironcage_http.client_sessions import Session

THREADS = 4
MODEL = "gpt-4o"


def read_bill(path: Path) -> dict[str, TokenCounts]:
    """Return what each call used, by its name."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["id"]: TokenCounts(**line["counts"]) for line in lines}


def spend(s: Session, job: dict[str, Any], seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311 - a test that can be repeated
    until = time.monotonic() + job["seconds"]
    with s.http_client() as client:
        while time.monotonic() < until:
            body = {
                "model": MODEL,
                "max_tokens": 100,
                "stream": draw.random() < 0.5,
                "messages": [{"role": "user", "content": "hello"}],
            }
            answer = client.post(f"{job['provider']}/chat/completions", json=body)
            if answer.status_code != 200:  # no money until the control plane is back
                time.sleep(0.05)


def main() -> None:
    job = json.loads(sys.stdin.read())
    bill = Path(job["bill"])

    def find_usage(intent: Intent) -> TokenCounts:
        return read_bill(bill).get(intent.request_id, TokenCounts(input=0, output=0))

    with session(
        job["url"], job["token"], outbox=job["outbox"], budget="0.05", find_usage=find_usage, start_timeout_s=30
    ) as s:
        workers = [threading.Thread(target=spend, args=(s, job, job["seed"] + n)) for n in range(THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if not s.flush(job["patience"]):
            sys.exit("not everything was sent")


if __name__ == "__main__":
    main()

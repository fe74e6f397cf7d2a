"""Records what clients of several servers on one file are told, and checks that some serial order explains it.

`python -m tests.history.record --clients 64 --servers 2 --seconds 30`; it ends with 1 if there is no such order, if the
search gave up, or if `ironcage verify` finds fault with the file.
"""

import argparse
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.history.checker import PATIENCE, Explained, check
from tests.history.recording import Recorded, record, with_books
from tests.history.telling import tell
from tests.history.town import Town

MONEYS_PER_S = 6
KILL_EVERY = 2_500


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, check and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.history.record", description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--crew", type=int, default=8, help="how many clients share a budget")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=None, help="which requests the clients draw")
    parser.add_argument("--patience", type=int, default=PATIENCE, help="steps of a search before it is undecided")
    options = parser.parse_args(arguments)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as folder:
        town = Town(Path(folder), moneys=int(MONEYS_PER_S * options.seconds) + 16, servers=options.servers)
        with town:
            shape = {"clients": options.clients, "crew": options.crew, "seed": seed}
            recorded = record(town, **shape, seconds=options.seconds, kill_after=range(KILL_EVERY, 10**6, KILL_EVERY))
        fault = town.verify()
        recorded = with_books(town, recorded)
    say(f"seed {seed}: {options.clients} clients, {options.servers} servers, {recorded.kills} of them killed")
    say_load(recorded)
    is_right = judge(recorded, options.patience)
    say(fault or "ironcage verify: nothing is wrong")
    return 0 if is_right and not fault else 1


def judge(recorded: Recorded, patience: int) -> bool:
    """Check every history, print what is wrong, and tell whether all are explained."""
    begun = time.process_time()
    verdicts = [(history, check(history, patience)) for history in recorded.histories]
    explained = [verdict for _, verdict in verdicts if isinstance(verdict, Explained)]
    for history, verdict in verdicts:
        if not isinstance(verdict, Explained):
            say(tell(history, verdict))
    steps = [verdict.explored for _, verdict in verdicts]
    say(
        f"{len(explained)} of {len(verdicts)} histories are explained,"
        f" in {sum(steps)} steps, at most {max(steps)} for one, and {time.process_time() - begun:.1f} s"
    )
    return len(explained) == len(verdicts)


def say_load(recorded: Recorded) -> None:
    """Print what was recorded."""
    sent = recorded.operations
    overlaps = [count for history in recorded.histories for count in history.overlaps]
    kinds = Counter(each.request.kind for each in sent)
    say(
        f"{len(sent)} operations on {len(recorded.histories)} moneys:"
        f" {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}"
    )
    refused = Counter(str(each.answer["refused"]) for each in sent if each.answer and "refused" in each.answer)
    say(f"refused: {', '.join(f'{count} {code}' for code, count in refused.most_common())}")
    say(
        f"short of money {len(recorded.short)}, done before {len(recorded.replayed)},"
        f" not answered {len(recorded.unknown)}"
    )
    say(f"others under way on the same money: {sum(overlaps) / len(overlaps):.1f} in the mean, {max(overlaps)} at most")
    answers = Counter(each.server for each in sent if each.answer)
    say(f"answers by server: {', '.join(str(answers[server]) for server in sorted(answers))}")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""The outbox: what it was given is there for the next session, whenever and however a session dies."""

import errno
import fcntl
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironcage_core.domain.prices import TokenCounts
from ironcage_core.errors.runtime import OutboxError
from ironcage_core.runtime.lease_session import Spend
from ironcage_http.client_journal import IntentLine, SpendLine, VoidLine, line_of
from ironcage_http.client_outbox import DEAD_LETTERS, Intent, Left, Outbox
from tests.support.processes import ENVIRONMENT

ACCOUNT = "localhost-agent_1"
NOTHING = Left([], [], [])
MEGABYTE = 2**20


def intent(request_id: str, model: str = "gpt-4o") -> Intent:
    return Intent(request_id, "lease_1", model, "openai", 2_500, 900, 1_700_000_000_000)


def spend(request_id: str, cost: int = 70) -> Spend:
    counts = TokenCounts(input=40, output=2, cached_input=8, cache_write=1)
    return Spend(request_id, "lease_1", "gpt-4o", "openai", cost, 42, counts, 1_700_000_000_000, is_estimated=True)


def die(outbox: Outbox) -> None:
    """Do what a death does: the lock goes, the file stays as it is."""
    outbox._journal.abandon()


def adopted(folder: Path) -> Left:
    """Return what the next session gets, and let it die as well."""
    outbox = Outbox(folder, ACCOUNT)
    left = outbox.adopt()
    die(outbox)
    return left


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def lines(outbox: Outbox) -> list[bytes]:
    return outbox.path.read_bytes().splitlines(keepends=True)


def child(command: str, *arguments: object) -> subprocess.Popen[str]:
    """Start this file as a script."""
    return subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, __file__, command, *map(str, arguments)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def append_for_ever(folder: str) -> None:
    """Keep intents and spends in four threads, and print each as soon as it is kept."""
    outbox = Outbox(Path(folder), ACCOUNT)

    def work(thread: int) -> None:
        for number in range(1_000_000):
            request_id = f"{thread}-{number}"
            outbox.intend(intent(request_id))
            say(f"intent {request_id}")
            if number % 2:
                outbox.settle(spend(request_id))
                say(f"spend {request_id}")

    for thread in range(4):
        threading.Thread(target=work, args=(thread,)).start()


def adopt_on_signal(folder: str) -> None:
    """Adopt when a line comes, and print what was adopted."""
    outbox = Outbox(Path(folder), ACCOUNT)
    say("ready")
    sys.stdin.readline()
    say(json.dumps([spend.request_id for spend in outbox.adopt().spends]))
    sys.stdin.readline()


def fill_the_disk(folder: str) -> None:
    """Let files grow no further while intents are kept, then let them; print how each went."""
    outbox = Outbox(Path(folder), ACCOUNT)
    outbox.intend(intent("before"))
    size = outbox.path.stat().st_size
    for room in range(0, 200, 7):  # the line is cut at another place each time
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
        try:
            outbox.intend(intent("refused"))
        except OutboxError as refused:
            say(str(refused))
        try:
            outbox.settle(spend("before", 7))
        except OutboxError as refused:
            say(str(refused))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        outbox.intend(intent(f"after-{room}"))
        outbox.acknowledge(["refused", f"after-{room}"])
        outbox.intend(intent("before"))
        size = outbox.path.stat().st_size
    outbox.intend(intent("last"))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path, ACCOUNT)
    yield outbox
    die(outbox)


def test_what_is_open_is_left_to_the_next_session_as_it_was(tmp_path: Path, outbox: Outbox) -> None:
    """Intents, spends with their counts, and leases; in the order they came."""
    outbox.lend("lease_1")
    for request_id in ("b", "a"):
        outbox.intend(intent(request_id))
    uncounted = spend("d")._replace(counts=None, is_estimated=False)
    outbox.settle(spend("c"))
    outbox.settle(uncounted)
    die(outbox)
    left = adopted(tmp_path)

    assert left == Left([intent("b"), intent("a")], [spend("c"), uncounted], ["lease_1"])


def test_what_is_closed_is_not_left(tmp_path: Path, outbox: Outbox) -> None:
    """A settled intent is a spend, a void or acknowledged one is nothing, and a returned lease is nobody's."""
    outbox.lend("lease_1")
    outbox.lend("lease_2")
    outbox.returned("lease_1")
    for request_id in ("settled", "void", "acknowledged", "both"):
        outbox.intend(intent(request_id))
    outbox.settle(spend("settled"))
    outbox.void("void")
    outbox.settle(spend("acknowledged"))
    outbox.acknowledge(["acknowledged", "both", "unknown"])
    outbox.acknowledge([])
    die(outbox)
    left = adopted(tmp_path)

    assert left == Left([], [spend("settled")], ["lease_2"])


def test_what_was_adopted_outlives_the_one_who_adopted_it(tmp_path: Path, outbox: Outbox) -> None:
    """It is in the journal of the new session, and the old journal is gone."""
    outbox.settle(spend("a"))
    outbox.lend("lease_1")
    die(outbox)
    first = Outbox(tmp_path, ACCOUNT)
    given = [first.adopt(), first.adopt()]
    die(first)
    files = names(tmp_path)
    second = adopted(tmp_path)

    assert given == [Left([], [spend("a")], ["lease_1"]), NOTHING]
    assert files == [first.path.name]
    assert second == given[0]


def test_the_journals_of_living_sessions_and_of_other_accounts_are_left_alone(tmp_path: Path, outbox: Outbox) -> None:
    """Also those of an account whose name begins as ours does."""
    outbox.settle(spend("a"))
    others = [Outbox(tmp_path, f"{ACCOUNT}{more}") for more in ("2", "-0123456789abcdef", "-x")]
    for other in others:
        other.settle(spend("b"))
        die(other)
    left = adopted(tmp_path)

    assert left == NOTHING
    assert all(other.path.exists() for other in [outbox, *others])


@pytest.mark.parametrize("round_", range(3))
def test_nothing_that_was_kept_is_lost_when_the_process_is_killed(tmp_path: Path, round_: int) -> None:
    """Every line that was printed before the kill is there afterwards."""
    process = child("append_for_ever", tmp_path)
    assert process.stdout is not None
    printed = [process.stdout.readline() for _ in range(40 + 7 * round_)]
    process.kill()
    printed += process.stdout.readlines()
    process.communicate()
    left = adopted(tmp_path)
    spent = {spend.request_id for spend in left.spends}
    known = spent | {intent.request_id for intent in left.intents}
    told = [line.split() for line in printed]

    assert len(told) >= 40
    assert {request_id for kind, request_id in told if kind == "spend"} <= spent
    assert {request_id for _, request_id in told} <= known


def test_a_torn_last_line_counts_for_nothing_wherever_it_is_torn(tmp_path: Path, outbox: Outbox) -> None:
    """What was kept before is there; no warning, for a crash leaves that."""
    outbox.lend("lease_1")
    outbox.settle(spend("whole"))
    whole = outbox.path.read_bytes()
    outbox.settle(spend("torn"))
    torn = outbox.path.read_bytes()
    outbox.close()
    outbox.path.unlink()
    for cut in range(len(whole), len(torn)):
        outbox.path.write_bytes(torn[:cut])

        assert adopted(tmp_path) == Left([], [spend("whole")], ["lease_1"]), cut
        (path,) = tmp_path.iterdir()
        assert path.suffix == ".journal"
        path.unlink()


@pytest.mark.parametrize("damage", [b"X", b"\x00", b"\n"])
def test_a_damaged_line_in_the_middle_costs_only_itself(
    tmp_path: Path, outbox: Outbox, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    """All other lines count, the file is kept under another name, and a warning names it without its content."""
    for request_id in ("req-a", "req-b", "req-c"):
        outbox.settle(spend(request_id))
    die(outbox)
    content = bytearray(outbox.path.read_bytes())
    at = content.index(b"req-b")
    content[at : at + 1] = damage
    outbox.path.write_bytes(content)
    left = [adopted(tmp_path), adopted(tmp_path)]
    kept = outbox.path.with_name(outbox.path.name + ".damaged")

    assert left == [Left([], [spend("req-a"), spend("req-c")], [])] * 2
    assert kept.read_bytes() == content
    assert not outbox.path.exists()
    (message,) = caplog.messages
    assert str(kept) in message
    assert "calls may be missing" in message
    assert "req-" not in message


@pytest.mark.parametrize("payload", ['{"kind":"refund","request_id":"b"}', '{"kind":"void"}', "[]", "not json"])
def test_a_line_of_a_newer_version_is_kept_for_it(
    tmp_path: Path, outbox: Outbox, caplog: pytest.LogCaptureFixture, payload: str
) -> None:
    """A checksum that holds says that the line is whole; the file is not thrown away."""
    outbox.settle(spend("a"))
    die(outbox)
    newer = f"{zlib.crc32(payload.encode()):08x} {payload}\n".encode()
    outbox.path.write_bytes(newer + outbox.path.read_bytes())
    left = adopted(tmp_path)

    assert left == Left([], [spend("a")], [])
    assert "newer version" in caplog.text
    assert outbox.path.with_name(outbox.path.name + ".damaged").read_bytes().startswith(newer)


def test_one_who_dies_before_the_old_journal_is_removed_leaves_each_call_once(tmp_path: Path, outbox: Outbox) -> None:
    """Both journals say the same; what a call did cost beats what it may cost, in whichever order they are read."""
    for request_id in ("a", "b"):
        outbox.intend(intent(request_id))
    outbox.lend("lease_1")
    die(outbox)
    old = outbox.path.read_bytes()
    second = Outbox(tmp_path, ACCOUNT)
    second.adopt()
    second.settle(spend("a"))
    die(second)
    expected = Left([intent("b")], [spend("a")], ["lease_1"])
    for first, last in (("0", "f"), ("f", "0")):
        (path,) = tmp_path.glob("*.journal")
        both = [(path.read_bytes(), first), (old, last)]
        path.unlink()
        for content, digit in both:
            (tmp_path / f"{ACCOUNT}-{digit * 16}.journal").write_bytes(content)

        assert adopted(tmp_path) == expected


def test_an_intent_of_a_call_that_is_settled_here_is_not_handed_out(tmp_path: Path, outbox: Outbox) -> None:
    """A journal that could not be removed is adopted again; nobody settles its calls a second time."""
    other = Outbox(tmp_path, ACCOUNT)
    other.intend(intent("a"))
    die(other)
    outbox.settle(spend("a"))
    left = outbox.adopt()

    assert left == NOTHING


def test_a_full_disk_refuses_and_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    """A call that could not be intended is not there; all before and after is, and what a call did cost follows."""
    process = child("fill_the_disk", tmp_path)
    output, _ = process.communicate(timeout=60)
    left = adopted(tmp_path)

    assert process.returncode == -signal.SIGKILL
    assert len(output.splitlines()) >= 29
    assert "outbox=" in output
    assert str(tmp_path) in output
    assert "File too large" in output
    assert left == Left([intent("last")], [spend("before", 7)], [])
    assert [path.suffix for path in tmp_path.iterdir()] == [".journal"]


def failing(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_an_intent_whose_sync_failed_is_taken_back(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the file, yet nobody made the call; a settled call whose sync failed is kept with the next write."""
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        with pytest.raises(OutboxError):
            outbox.intend(intent("a"))
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        with pytest.raises(OutboxError):
            outbox.settle(spend("b"))
    outbox.lend("lease_1")
    die(outbox)
    left = adopted(tmp_path)

    assert left == Left([], [spend("b")], ["lease_1"])


def test_closing_writes_what_could_not_be_written(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The space is back, and no other write came."""
    with monkeypatch.context() as broken:
        broken.setattr(os, "write", failing)
        with pytest.raises(OutboxError):
            outbox.settle(spend("a"))
    outbox.close()
    left = adopted(tmp_path)

    assert left == Left([], [spend("a")], [])


def test_a_failed_sync_fails_for_all_who_waited_for_it(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second sync would succeed although the first has lost what it should have written."""
    real, calls = os.fsync, []

    def fails_once(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 1:
            deadline = time.monotonic() + 10
            while outbox.path.stat().st_size < 600 and time.monotonic() < deadline:
                time.sleep(0.001)
            failing()
        real(handle)

    outcomes: list[str] = []

    def work(request_id: str) -> None:
        try:
            outbox.settle(spend(request_id))
            outcomes.append("kept")
        except OutboxError:
            outcomes.append("refused")

    monkeypatch.setattr(os, "fsync", fails_once)
    run_together(work, ["a", "b", "c"])

    assert outcomes == ["refused"] * 3
    assert len(calls) == 1


def run_together(work: Callable[[str], None], arguments: list[str]) -> None:
    threads = [threading.Thread(target=work, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_that_write_at_once_share_a_sync_and_none_returns_before_its_own(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds its line in what was synced; there were fewer syncs than lines."""
    real = os.fsync
    synced: list[bytes] = []
    early: list[str] = []

    def slow(handle: int) -> None:
        content = outbox.path.read_bytes()
        time.sleep(0.005)
        real(handle)
        synced.append(content)

    def work(thread: str) -> None:
        for number in range(20):
            request_id = f"<{thread}-{number}>"
            outbox.intend(intent(request_id))
            if request_id.encode() not in synced[-1]:
                early.append(request_id)

    with monkeypatch.context() as watched:
        watched.setattr(os, "fsync", slow)
        run_together(work, list("abcdefgh"))
    die(outbox)

    assert early == []
    assert len(synced) < 100
    assert len(adopted(tmp_path).intents) == 160


def test_an_old_journal_is_removed_only_when_its_content_is_on_disk_here(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut at any moment leaves at least one of them; the folder is synced at the end."""
    outbox.settle(spend("a"))
    die(outbox)
    events: list[str] = []
    fsync, unlink = os.fsync, Path.unlink
    second = Outbox(tmp_path, ACCOUNT)

    def watched_sync(handle: int) -> None:
        fsync(handle)
        events.append(f"synced {Path(f'/proc/self/fd/{handle}').readlink().name}")

    def watched_unlink(path: Path, missing_ok: bool = False) -> None:
        events.append(f"removed {path.name}")
        unlink(path, missing_ok)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "unlink", watched_unlink)
    second.adopt()
    die(second)

    assert events == [f"synced {second.path.name}", f"removed {outbox.path.name}", f"synced {tmp_path.name}"]


def test_a_new_journal_has_its_name_only_when_it_is_locked_and_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nobody adopts it while it is made; the folder is synced afterwards."""
    events: list[str] = []
    flock, fsync, rename = fcntl.flock, os.fsync, Path.rename

    def watched_lock(file: int, how: int) -> None:
        flock(file, how)
        events.append("locked")

    def watched_sync(handle: int) -> None:
        fsync(handle)
        events.append("folder synced" if stat.S_ISDIR(os.fstat(handle).st_mode) else "synced")

    def watched_rename(path: Path, to: Path) -> Path:
        events.append("named")
        return rename(path, to)

    monkeypatch.setattr(fcntl, "flock", watched_lock)
    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    die(Outbox(tmp_path, ACCOUNT))

    assert events == ["locked", "synced", "named", "folder synced"]


def test_processes_that_adopt_at_once_share_what_is_left(tmp_path: Path) -> None:
    """Each call goes to exactly one of them."""
    for number in range(60):
        outbox = Outbox(tmp_path, ACCOUNT)
        outbox.settle(spend(str(number)))
        die(outbox)
    children = [child("adopt_on_signal", tmp_path) for _ in range(3)]
    for process in children:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in children:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    got = [json.loads(process.stdout.readline()) for process in children if process.stdout is not None]
    for process in children:
        process.communicate("end\n", timeout=30)
    given = sorted(int(request_id) for share in got for request_id in share)

    assert given == list(range(60))
    assert sorted(spend.cost for spend in adopted(tmp_path).spends) == [70] * 60


def test_a_long_journal_is_shortened_to_what_is_open_and_stays_ours(tmp_path: Path, outbox: Outbox) -> None:
    """Nobody can adopt it in between, and nothing is lost."""
    outbox.lend("lease_1")
    outbox.intend(intent("open"))
    stolen: list[Left] = []
    is_over = threading.Event()
    other = Outbox(tmp_path, ACCOUNT)

    def steal() -> None:
        while not is_over.is_set():
            stolen.append(other.adopt())

    thief = threading.Thread(target=steal)
    thief.start()
    sizes = []
    for number in range(30):
        outbox.intend(intent(str(number), model="m" * (MEGABYTE // 5)))
        outbox.void(str(number))
        sizes.append(outbox.path.stat().st_size)
    is_over.set()
    thief.join()
    die(outbox)
    left = other.adopt()
    die(other)

    assert len(stolen) > 5
    assert set(map(str, stolen)) == {str(NOTHING)}
    assert MEGABYTE // 2 < max(sizes) < 1.5 * MEGABYTE
    assert left == Left([intent("open")], [], ["lease_1"])


def test_a_long_journal_that_is_mostly_open_is_not_written_anew_again_and_again(outbox: Outbox) -> None:
    """It is when less than half of it is open."""
    inodes = []
    for number in range(20):
        outbox.intend(intent(str(number), model="m" * (MEGABYTE // 5)))
        inodes.append(outbox.path.stat().st_ino)
    long = outbox.path.stat().st_size
    outbox.acknowledge([str(number) for number in range(20)])
    for number in range(20):
        outbox.intend(intent(str(number), model="m" * (MEGABYTE // 5)))
        outbox.void(str(number))

    assert len(set(inodes)) == 1
    assert long > 4 * MEGABYTE
    assert outbox.path.stat().st_size < 2 * MEGABYTE


def test_a_journal_that_cannot_be_shortened_goes_on(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """To write it anew needs room that appending does not; the record that was kept is kept."""
    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", failing)
        for number in range(8):
            outbox.intend(intent(str(number), model="m" * (MEGABYTE // 5)))
            outbox.void(str(number))
    outbox.intend(intent("last"))
    die(outbox)

    assert "could not be shortened" in caplog.text
    assert adopted(tmp_path) == Left([intent("last")], [], [])
    assert {path.suffix for path in tmp_path.iterdir()} == {".journal"}


def test_a_journal_that_somebody_has_removed_is_written_anew(tmp_path: Path, outbox: Outbox) -> None:
    """A folder that is swept for old files does not lose what is open."""
    outbox.settle(spend("a"))
    outbox.path.unlink()
    outbox.settle(spend("b"))
    outbox.path.unlink()
    outbox.close()

    assert adopted(tmp_path) == Left([], [spend("a"), spend("b")], [])


def test_a_draft_of_a_dead_session_is_swept_and_says_nothing(tmp_path: Path, outbox: Outbox) -> None:
    """What it would have said is in a journal, or was never kept; a draft that is being made is left alone."""
    outbox.settle(spend("a"))
    outbox.path.with_name(f"{ACCOUNT}-{'0' * 16}.draft").write_bytes(outbox.path.read_bytes())
    living = tmp_path / f"{ACCOUNT}-{'1' * 16}.draft"
    with living.open("wb") as draft:
        fcntl.flock(draft, fcntl.LOCK_EX)
        left = adopted(tmp_path)

    assert left == NOTHING
    assert [path for path in tmp_path.iterdir() if path.suffix == ".draft"] == [living]


def test_a_buried_spend_is_where_a_person_finds_it_and_not_open(tmp_path: Path, outbox: Outbox) -> None:
    """One line a letter; what a full disk has left of an earlier one is not glued to it."""
    letters = tmp_path / DEAD_LETTERS
    letters.write_bytes(b'{"at": 1')
    outbox.settle(spend("a"))
    outbox.bury(spend("a"), "LEASE_NOT_FOUND", "No such lease")
    outbox.bury(spend("b"), "CONFLICT", "Other numbers")
    die(outbox)
    torn, first, second = letters.read_text().splitlines()
    letter = json.loads(first)

    assert torn == '{"at": 1'
    assert abs(letter.pop("at") / 1000 - time.time()) < 60
    assert letter == {
        "code": "LEASE_NOT_FOUND",
        "message": "No such lease",
        "spend": {
            "request_id": "a",
            "lease_id": "lease_1",
            "model": "gpt-4o",
            "provider": "openai",
            "cost": 70,
            "tokens": 42,
            "counts": {"input": 40, "output": 2, "cached_input": 8, "cache_write": 1},
            "occurred_at": 1_700_000_000_000,
            "is_estimated": True,
        },
    }
    assert json.loads(second)["code"] == "CONFLICT"
    assert adopted(tmp_path) == NOTHING


def test_a_spend_that_cannot_be_buried_stays_open(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported again."""
    outbox.settle(spend("a"))
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        with pytest.raises(OutboxError):
            outbox.bury(spend("a"), "CONFLICT", "Other numbers")
    die(outbox)

    assert adopted(tmp_path) == Left([], [spend("a")], [])


def test_closing_removes_a_journal_in_which_nothing_is_open(tmp_path: Path, outbox: Outbox) -> None:
    """A second time it does nothing; a closed outbox keeps nothing."""
    outbox.settle(spend("a"))
    outbox.acknowledge(["a"])
    outbox.close()
    outbox.close()

    assert names(tmp_path) == []
    for use in (lambda: outbox.intend(intent("b")), lambda: outbox.bury(spend("b"), "", ""), outbox.adopt):
        with pytest.raises(OutboxError, match="open a session"):
            use()
    assert names(tmp_path) == []


def test_closing_leaves_what_is_open_to_a_session_of_the_same_process(tmp_path: Path, outbox: Outbox) -> None:
    """The lock is released."""
    outbox.settle(spend("a"))
    outbox.close()

    assert adopted(tmp_path) == Left([], [spend("a")], [])


def test_a_fork_has_no_part_in_the_journal(tmp_path: Path, outbox: Outbox) -> None:
    """It can neither write nor remove it, and does not hold it when its parent dies."""
    outbox.settle(spend("a"))
    outbox.acknowledge(["a"])
    reading, writing = os.pipe()
    outbox._journal._writing.acquire()  # as if another thread were writing at that moment
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # one that hangs ends as well
        try:
            outbox.close()
            with pytest.raises(OutboxError):
                outbox.intend(intent("b"))
            os.write(writing, b"done")
        finally:
            time.sleep(60)
            os._exit(0)
    outbox._journal._writing.release()
    said = os.read(reading, 4)
    outbox.settle(spend("c"))
    while_it_lives = adopted(tmp_path)
    die(outbox)
    left = adopted(tmp_path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reading)
    os.close(writing)

    assert said == b"done"
    assert while_it_lives == NOTHING
    assert left == Left([], [spend("c")], [])


def test_a_folder_that_cannot_be_used_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """Nothing is spent that cannot be kept."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match="choose another folder with outbox=") as refused:
        Outbox(tmp_path / "file" / "outbox", ACCOUNT)

    assert str(tmp_path / "file" / "outbox") in str(refused.value)


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says why."""

    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(OutboxError, match="Permission denied"):
        Outbox(tmp_path, ACCOUNT)


def test_a_journal_that_cannot_be_read_is_named_and_nothing_is_lost(tmp_path: Path, outbox: Outbox) -> None:
    """What was adopted before it is part of the answer as soon as it is out of the way."""
    obstacle = tmp_path / f"{ACCOUNT}-{'f' * 16}.journal"
    obstacle.mkdir()
    other = Outbox(tmp_path, ACCOUNT)
    other.settle(spend("a"))
    die(other)
    with pytest.raises(OutboxError) as refused:
        outbox.adopt()
    obstacle.rmdir()
    left = outbox.adopt()

    assert str(obstacle) in str(refused.value)
    assert "choose another folder" in str(refused.value)
    assert left == Left([], [spend("a")], [])


def test_a_link_in_the_place_of_a_journal_is_not_followed(tmp_path: Path, outbox: Outbox) -> None:
    """Nor is what it points to read or locked."""
    (tmp_path / "elsewhere").write_bytes(line_of(VoidLine("a")))
    (tmp_path / f"{ACCOUNT}-{'0' * 16}.journal").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutboxError, match="symbolic link"):
        outbox.adopt()


def test_the_folder_and_its_files_are_the_owners_alone(tmp_path: Path) -> None:
    """Also the shortened journal and the dead letters; a relative folder stays where it was."""
    folder = tmp_path / "state" / "outbox"
    outbox = Outbox(folder, ACCOUNT)
    outbox.bury(spend("a"), "CONFLICT", "Other numbers")
    die(outbox)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600] * 2


def test_a_relative_folder_is_meant_from_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes the working directory later does not lose the journal."""
    monkeypatch.chdir(tmp_path)
    outbox = Outbox(Path("outbox"), ACCOUNT)
    outbox.path.unlink()
    monkeypatch.chdir("/")
    outbox.settle(spend("a"))
    die(outbox)

    assert adopted(tmp_path / "outbox") == Left([], [spend("a")], [])


@pytest.mark.parametrize("account", ["", "a" * 81, "a/b", "..", "A", "a b", "a\n", "ä"])
def test_an_account_is_a_plain_name(tmp_path: Path, account: str) -> None:
    """It is a part of a file name."""
    with pytest.raises(ValueError, match="account"):
        Outbox(tmp_path, account)


@pytest.mark.parametrize(
    "bad",
    [
        spend("a", -1),
        spend("a", 2**62 + 1),
        spend("a", 1.5),  # type: ignore[arg-type]  # what is tested
        spend("a")._replace(model=None),  # type: ignore[arg-type]  # likewise
    ],
)
def test_what_could_not_be_read_again_is_not_taken(tmp_path: Path, outbox: Outbox, bad: Spend) -> None:
    """The caller learns it at once, and what is open stays as it was."""
    outbox.intend(intent("a"))
    with pytest.raises(ValueError, match="could not be read again"):
        outbox.settle(bad)
    die(outbox)

    assert adopted(tmp_path) == Left([intent("a")], [], [])


def test_a_line_names_each_field_as_it_is_named_here() -> None:
    """Another version reads it by these names."""
    assert IntentLine.__struct_fields__ == Intent._fields
    assert SpendLine.__struct_fields__ == Spend._fields


IDS = st.sampled_from("abcd")
STEPS = st.one_of(
    st.tuples(st.sampled_from(["lend", "returned", "intend", "settle", "void", "bury"]), IDS),
    st.tuples(st.just("acknowledge"), st.lists(IDS, max_size=3)),
    st.tuples(st.sampled_from(["die", "close", "lose", "shorten"]), st.none()),
)


class Model:
    """What is open, told by the rules of the calls alone."""

    def __init__(self) -> None:
        self.state: dict[str, str] = {}
        self.leases: set[str] = set()

    def apply(self, step: str, value: str) -> None:
        if step == "lend":
            self.leases.add(value)
        elif step == "returned":
            self.leases.discard(value)
        elif step == "intend":
            self.state.setdefault(value, "intent")
        elif step == "settle":
            self.state[value] = "spend"
        elif step == "bury" or (step == "void" and self.state.get(value) == "intent"):
            self.state.pop(value, None)

    def equals(self, left: Left) -> bool:
        told = {intent.request_id: "intent" for intent in left.intents}
        told |= {spend.request_id: "spend" for spend in left.spends}
        is_once = len(told) == len(left.intents) + len(left.spends)
        return is_once and told == self.state and set(left.lease_ids) == self.leases


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=40))
def test_what_is_adopted_is_what_is_open_whatever_happened_before(steps: list[tuple[str, object]]) -> None:
    """Sessions follow each other: one dies, one closes, one loses its file, one writes it anew."""
    model = Model()
    with TemporaryDirectory() as name:
        folder = Path(name)
        outbox = Outbox(folder, ACCOUNT)
        for step, value in [*steps, ("die", None)]:
            if step in {"die", "close"}:
                die(outbox) if step == "die" else outbox.close()
                outbox = Outbox(folder, ACCOUNT)
                assert model.equals(outbox.adopt())
            elif step == "lose":
                outbox.path.unlink()
                outbox.returned("unknown")
            elif step == "shorten":
                outbox._journal._check_at = 0
                outbox.returned("unknown")
            elif isinstance(value, list):
                outbox.acknowledge(value)
                for request_id in value:
                    model.state.pop(request_id, None)
            else:
                assert isinstance(value, str)
                arguments = {
                    "intend": (intent(value),),
                    "settle": (spend(value),),
                    "bury": (spend(value), "CONFLICT", "Other numbers"),
                }
                getattr(outbox, step)(*arguments.get(step, (value,)))
                model.apply(step, value)
        die(outbox)


COMMANDS: dict[str, Callable[[str], None]] = {
    "append_for_ever": append_for_ever,
    "adopt_on_signal": adopt_on_signal,
    "fill_the_disk": fill_the_disk,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2])

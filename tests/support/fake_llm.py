"""A provider on this machine that speaks as OpenAI and as Anthropic do, keeps a bill, and fails as it is told."""

import gzip
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from types import TracebackType
from typing import Literal, NamedTuple, Self

from ironcage_core.domain.prices import TokenCounts
from tests.support.llm_shapes import Body, events, free_answer, refusal, whole_answer

PATIENCE_S = 10.0


@dataclass(frozen=True)
class Mood:
    """How one POST is answered; by default, well.

    Args:
        status: A refusal instead of an answer, before anything is billed.
        told: The body of that refusal, instead of the usual one.
        location: Where a redirect leads.
        breaks_after: Breaks the stream after so many pieces, or any other body after so many bytes.
        ends_after: Ends the stream after so many pieces, as if that were all.
        holds: Waits for this before the second piece of a stream, or before any other answer, after it was billed.
        tells_usage: Whether the answer says what was used.
        is_gzipped: Whether the answer comes compressed, asked for or not.
        hangs_up: Closes the connection without an answer: before or after the call is billed.
    """

    status: int = 200
    told: Body | None = None
    location: str | None = None
    breaks_after: int | None = None
    ends_after: int | None = None
    holds: threading.Event | None = None
    tells_usage: bool = True
    is_gzipped: bool = False
    hangs_up: Literal["before", "after"] | None = None


class Seen(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body | None


class Billed(NamedTuple):
    """What one call used."""

    model: str
    counts: TokenCounts


@dataclass
class FakeLlm:
    """Serves while its block is open; everything may be read at any time.

    Args:
        api_key: The only key it accepts, where its API has it.
    """

    api_key: str = field(repr=False)
    bill: dict[str, Billed] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    moods: deque[Mood] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"llm": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def root(self) -> str:
        """Its origin: what Anthropic's SDK takes for a base URL."""
        return f"http://localhost:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """What OpenAI's SDK takes for a base URL."""
        return f"{self.root}/v1"

    def will(self, *moods: Mood) -> None:
        """Answer the next POSTs like this."""
        self.moods.extend(moods)

    @property
    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]

    def arrived(self, seen: Seen) -> Mood:
        with self._lock:
            self.seen.append(seen)
            return self.moods.popleft() if self.moods and seen.method == "POST" else Mood()

    def charge(self, request_id: str, model: str, *, has_output: bool) -> TokenCounts:
        """Do the work of a call, as it were, and put it on the bill."""
        with self._lock:
            number = len(self.bill)
            counts = TokenCounts(input=40 + number, output=7 + number if has_output else 0, cached_input=4)
            if not has_output:
                counts = TokenCounts(input=40 + number, output=0)
            assert request_id not in self.bill, "two calls under one name"
            self.bill[request_id] = Billed(model, counts)
        return counts

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    llm: FakeLlm

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, *_: object) -> None:
        """Say nothing: requests carry keys."""

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw) if raw[:1] == b"{" else None
        mood = self.llm.arrived(Seen(self.command, self.path, dict(self.headers.items()), body))
        has_key = self.headers["Authorization"] == f"Bearer {self.llm.api_key}"
        if "/messages" in self.path:
            has_key = self.headers["x-api-key"] == self.llm.api_key and "Authorization" not in self.headers
        if not has_key:
            self._answer(401, refusal("wrong key"))
        elif self.command != "POST" or body is None:
            self._answer(200, free_answer(self.path))
        elif mood.location is not None:
            self._answer(mood.status, {}, {"Location": mood.location})
        elif mood.status != 200:
            self._answer(mood.status, mood.told or refusal("as told"))
        elif mood.hangs_up != "before":
            self._work(self.path.partition("?")[0], body, mood)
        else:
            self.close_connection = True

    def _work(self, path: str, body: Body, mood: Mood) -> None:
        if path.endswith(("/count_tokens", "/cancel")):
            self._answer(200, {"input_tokens": 12, **free_answer(path)})
            return
        counts = self.llm.charge(
            self.headers["X-Client-Request-Id"], body["model"], has_output=not path.endswith("/embeddings")
        )
        if mood.hangs_up == "after":
            self.close_connection = True
        elif body.get("stream"):
            self._stream(events(path, body, counts if mood.tells_usage else None), mood)
        else:
            if mood.holds is not None:
                mood.holds.wait(PATIENCE_S)
            self._answer(200, whole_answer(path, body, counts if mood.tells_usage else None), mood=mood)

    def _answer(
        self, status: int, body: Body, headers: Mapping[str, str] | None = None, mood: Mood | None = None
    ) -> None:
        mood = mood or Mood()
        data = json.dumps(body).encode()
        sent = gzip.compress(data) if mood.is_gzipped else data
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        for name, value in ({"Content-Encoding": "gzip"} if mood.is_gzipped else {}).items():
            self.send_header(name, value)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection |= mood.breaks_after is not None
        self._write(sent if mood.breaks_after is None else sent[: mood.breaks_after])

    def _stream(self, pieces: Iterator[bytes], mood: Mood) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        if mood.is_gzipped:
            self.send_header("Content-Encoding", "gzip")
            pieces = iter([gzip.compress(b"".join(pieces))])
        self.end_headers()
        for number, piece in enumerate(islice(pieces, mood.ends_after)):
            if number == mood.breaks_after:
                self.close_connection = True
                return
            if number == 1 and mood.holds is not None:
                mood.holds.wait(PATIENCE_S)
            self._write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self._write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
        except OSError:  # the client went away, as some tests want
            self.close_connection = True

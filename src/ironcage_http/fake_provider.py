"""A stand-in for a provider, on this machine: it answers calls that carry the right key, and says what they used."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class FakeProvider:
    """Serves `POST /v1/chat/completions` while its block is open.

    Args:
        api_key: The only key it accepts.
    """

    def __init__(self, api_key: str) -> None:
        self.accepted = 0
        self.refused = 0
        self._api_key = api_key
        self._counting = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="fake-provider", daemon=True)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://localhost:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def judge(self, authorization: str | None) -> bool:
        """Count a call and tell whether it carries the key."""
        is_right = authorization == f"Bearer {self._api_key}"
        with self._counting:
            self.accepted += is_right
            self.refused += not is_right
        return is_right

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                is_right = provider.judge(self.headers["Authorization"])
                answer = _answer(request) if is_right else {"error": {"message": "wrong key"}}
                body = json.dumps(answer).encode()
                self.send_response(200 if is_right else 401)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing: requests carry keys."""

        return Handler


def _answer(request: dict[str, object]) -> dict[str, object]:
    number = int(str(request.get("seed", 0)))
    usage = {"prompt_tokens": 1000 + 7 * number, "completion_tokens": 300 + 3 * number}
    return {"model": request["model"], "choices": [{"message": {"role": "assistant", "content": "ok"}}], "usage": usage}

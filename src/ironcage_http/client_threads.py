"""Waiting in an event loop for what may block: it runs in a thread, and nothing makes its caller forget it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from anyio import CancelScope, get_cancelled_exc_class, to_thread

T = TypeVar("T")


async def unhurried(step: Callable[[], T]) -> T:
    """Run what may block in a thread, wait for its end, and be cancelled only then.

    A shield alone holds off the cancellations of anyio and trio, but not `asyncio.Task.cancel`: after that nobody would
    wait for the thread, nor learn what it has done.
    """
    once = _Once(step)
    cancelled: BaseException | None = None
    while True:
        try:
            with CancelScope(shield=True):
                result = await to_thread.run_sync(once)
        except get_cancelled_exc_class() as error:
            cancelled = error
        else:
            if cancelled is not None:
                raise cancelled
            return result


class _Once(Generic[T]):
    """A step that runs once; whoever calls it again waits for the same end."""

    def __init__(self, step: Callable[[], T]) -> None:
        self._step = step
        self._lock = threading.Lock()
        self._end: Future[T] = Future()

    def __call__(self) -> T:
        with self._lock:
            if not self._end.done():
                try:
                    self._end.set_result(self._step())
                except Exception as error:  # noqa: BLE001 - it is raised again below, in each who waits
                    self._end.set_exception(error)
        return self._end.result()

"""Signals that ask a script to stop: at once, or at the next step, when work is saved."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from runtime import console, processes
from runtime.errors import Interrupted

STOP_SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}  # their exit codes


@contextlib.contextmanager
def handle_signals(handler: Callable[[int], None]) -> Iterator[None]:
    """Within the block STOP_SIGNALS call handler(exit code), where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: object) -> None:
        handler(STOP_SIGNALS[signal.Signals(number)])

    before = {number: signal.signal(number, on_signal) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def interrupt(code: int) -> None:
    """Stop at once."""
    raise Interrupted(code)


class StopRequest:
    """What a signal asked for: `code` is an exit code, or 0 while there was none."""

    def __init__(self) -> None:
        self.code = 0

    def on_signal(self, code: int) -> None:
        """The first signal is a request; the second stops at once.

        Not so for the processes of torchrun, which passes on a signal that they may have had
        already: it ends them itself after half a minute.
        """
        if processes.world_size() > 1:
            self.code = self.code or code
            return
        if self.code:
            raise Interrupted(code)
        self.code = code
        console.info("stopping at the next step; once more stops at once")


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """A `StopRequest` for work that saves before it stops: it asks for `code` at each step."""
    request = StopRequest()
    with handle_signals(request.on_signal):
        yield request

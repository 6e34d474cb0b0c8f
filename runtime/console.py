"""What scripts print: results on stdout, notes and progress on stderr, from one process only.

What is printed is not what a run is for: a reader that has left (`| head`), a full disk or an
encoding without "±" end no work. `cli.script` tells at the end that results could not be printed.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from runtime import processes


class _Failed:
    """The first error of stdout in this process."""

    error: OSError | None = None


def use_any_encoding() -> None:
    """Let stdout and stderr escape what their encoding lacks; give closed ones a place to go."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # a file that is opened next would take its number, and all that is printed
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write(stream: TextIO | None, text: str) -> None:
    """Write to stdout or stderr at once; one that fails says no more."""
    try:
        if stream is not None:
            stream.write(text)
            stream.flush()
    except OSError as error:
        if stream is sys.stdout:
            _Failed.error = _Failed.error or error
        _silence(stream)
    except ValueError:  # closed
        pass


def _silence(stream: Any) -> None:
    """Let what a stream still holds, and all that follows, go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def output_error() -> OSError | None:
    """Why results could not be printed, once; None where they were, or where nobody reads on."""
    write(sys.stdout, "")
    error, _Failed.error = _Failed.error, None
    return None if error is None or error.errno == errno.EPIPE else error


class _Stderr:
    """stderr as tqdm takes it: failing to write is no error."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> None:
        write(sys.stderr, text)

    def flush(self) -> None:
        write(sys.stderr, "")


def progress(iterable: Iterable[Any] | None = None, **kwargs: Any) -> Any:
    """A tqdm bar on stderr, slow enough for a log file."""
    import tqdm

    silent = processes.rank() > 0 or sys.stderr is None
    often = not silent and sys.stderr.isatty()
    kwargs = {"disable": silent, "file": _Stderr(), **kwargs}
    return tqdm.tqdm(iterable, mininterval=0.2 if often else 10, dynamic_ncols=True, **kwargs)


def format_duration(seconds: float) -> str:
    """A time span for people: 42 s, 3.5 min, 1.2 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def print_result(message: str) -> None:
    """One line of results on stdout, from the first of several processes."""
    if processes.rank() == 0:
        write(sys.stdout, f"{message}\n")


def info(message: str) -> None:
    """One line about the run on stderr, from the first of several processes."""
    if processes.rank() == 0:
        write(sys.stderr, f"{message}\n")

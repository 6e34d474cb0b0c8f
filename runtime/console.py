"""What scripts print: results on stdout, notes and progress on stderr, from one process only."""

import sys
from collections.abc import Iterable
from typing import Any

from runtime import processes


def progress(iterable: Iterable[Any] | None = None, **kwargs: Any) -> Any:
    """A tqdm bar on stderr, slow enough for a log file."""
    import tqdm

    kwargs = {"disable": processes.rank() > 0, **kwargs}
    return tqdm.tqdm(
        iterable, mininterval=0.2 if sys.stderr.isatty() else 10, dynamic_ncols=True, **kwargs
    )


def format_duration(seconds: float) -> str:
    """A time span for people: 42 s, 3.5 min, 1.2 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def print_result(message: str) -> None:
    """One line of results on stdout, from the first of several processes."""
    if processes.rank() == 0:
        print(message, flush=True)


def info(message: str) -> None:
    """One line about the run on stderr, from the first of several processes."""
    if processes.rank() == 0:
        print(message, file=sys.stderr, flush=True)

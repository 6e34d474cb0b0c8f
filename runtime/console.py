"""What scripts print: results on stdout, notes and progress on stderr, from one process only."""

import sys

from runtime import processes


def progress(iterable=None, **kwargs):
    """A tqdm bar on stderr, slow enough for a log file."""
    import tqdm

    kwargs = {"disable": processes.rank() > 0, **kwargs}
    return tqdm.tqdm(
        iterable, mininterval=0.2 if sys.stderr.isatty() else 10, dynamic_ncols=True, **kwargs
    )


def format_duration(seconds):
    """A time span in words."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def print_result(message):
    """One line of results on stdout, from the first of several processes."""
    if processes.rank() == 0:
        print(message, flush=True)


def info(message):
    """One line about the run on stderr, from the first of several processes."""
    if processes.rank() == 0:
        print(message, file=sys.stderr, flush=True)

"""Memory and disk: what a run needs, said beforehand, and whether it is there."""

import contextlib
import os
import pathlib
import resource
import shutil
import sys
from collections.abc import Iterable

from runtime import console

CGROUP = "/proc/self/cgroup", "/sys/fs/cgroup"  # name of the own control group; all of them
FIGURE_MEMORY = 3e8  # bytes that matplotlib and a figure take


def format_size(num_bytes: float) -> str:
    """A number of bytes for people: 512 bytes, 3.1 MB, 2.4 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


def format_files(paths: Iterable[str]) -> str:
    """Files with their sizes, for people: a.npy (2.4 GB), b.json (3.1 kB)."""
    return ", ".join(f"{path} ({format_size(os.path.getsize(path))})" for path in paths)


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # ru_maxrss knows what the process that started this one had, too
        with open("/proc/self/status") as status:
            (line,) = (line for line in status if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def machine_memory() -> int:
    """Bytes of memory that the processes here may have: the machine's, or those of their job."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError):  # no control groups of version 2
        own, root = map(pathlib.Path, CGROUP)
        group = own.read_text().rpartition("::/")[2].strip()
        for folder in (root / group, *(root / group).parents):
            with contextlib.suppress(OSError, ValueError):  # "max", or another namespace
                limits.append(int((folder / "memory.max").read_text()))
    return min(limits)


def announce(work: str, memory_bytes: float, disk_bytes: float, folder: str) -> None:
    """Say what a run is going to do and what it needs, before it starts.

    Args:
        work: What it does, in words.
        memory_bytes: Bound on the peak memory of a process.
        disk_bytes: What it will write.
        folder: Into which, there already.
    """
    console.info(
        f"{work}; up to {format_size(memory_bytes)} of memory; writes "
        f"{format_size(disk_bytes)} into {folder or '.'} "
        f"({format_size(shutil.disk_usage(folder or '.').free)} free)"
    )

"""benchmarks/RESULTS.md: each benchmark rewrites its own section and leaves the others alone."""

import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Iterable, Sequence

import torch

from checks import report

PATH = pathlib.Path(__file__).with_name("RESULTS.md")


def write_section(name: str, markdown: str, path: pathlib.Path | None = None) -> None:
    """Put markdown between the markers of a section of PATH; it is appended if it is not there."""
    path = path or PATH
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = path.read_text() if path.exists() else "# Results of the benchmarks\n"
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2] or "\n"
    if not rest:
        before = before.rstrip("\n") + "\n\n"
    path.write_text(f"{before}{begin}\n{markdown.strip()}\n{end}{after}")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, not padded: one changed number changes one line."""
    return "\n".join(report.table(header, rows))


def processor() -> str:
    """Name of the CPU."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        name = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), name)
    return name


def machine() -> str:
    """One line: processor, cores, threads, GPU, versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}"
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{processor()}, {threads}; {gpu}; {versions}"

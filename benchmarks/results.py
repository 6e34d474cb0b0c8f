"""Sections of RESULTS.md: each benchmark rewrites its own, and leaves the others alone."""

import os

import storage

PATH = os.path.join(os.path.dirname(__file__), "RESULTS.md")
HEADER = "# Results of the benchmarks\n\nEach section is written by the command that it names.\n"


def write_section(path, name, text):
    """Replace the section between the markers of this name, or append it.

    Args:
        path: The document; `PATH`.
        name: Of the section, in its markers.
        text: Markdown, heading included.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    document = HEADER
    if os.path.exists(path):
        with open(path) as file:
            document = file.read()
    before, found, rest = document.partition(start)
    after = rest.partition(end)[2] if found else "\n"
    section = f"{start}\n{text.strip()}\n{end}"
    before = before if found else before.rstrip() + "\n\n"
    with storage.atomic_write(path) as file:
        file.write(f"{before}{section}{after}".encode())

"""Figures on disk. A figure is the least that a run is for: one that fails is a note."""

import io
import os
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from runtime import atomic, console
from runtime.errors import InputError

if TYPE_CHECKING:  # slow to import
    from matplotlib.figure import Figure

DPI = 200
MAX_REASON = 200  # characters


Draw = Callable[[], "Figure | None"]


def render(path: str, draw: Draw) -> bytes | None:
    """Bytes of a figure file; None where there is none, with a note on stderr if that is a fault.

    Args:
        path: Of the file: its suffix is the format.
        draw: Makes the figure, or None where there is nothing to show.
    """
    if not callable(draw):
        raise TypeError("draw must be a function: making a figure may fail, too")
    try:
        figure, file = draw(), io.BytesIO()
        if figure is None:
            return None
        figure.savefig(file, format=os.path.splitext(path)[1][1:], dpi=DPI)
    except Exception as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, MAX_REASON)
        console.info(f"{path}: could not be drawn ({reason}); all else is there")
        return None
    return file.getvalue()


def render_all(figures: Mapping[str, Draw]) -> dict[str, bytes]:
    """{file name: bytes} of those figures that can be drawn; see `render`."""
    rendered = {name: render(name, draw) for name, draw in figures.items()}
    return {name: content for name, content in rendered.items() if content is not None}


def write_figure(path: str, draw: Draw) -> bool:
    """Draw and write a figure; where that fails a note on stderr says so, and no file is left.

    Args:
        path: Target; the format follows the suffix.
        draw: Makes the figure.

    Returns:
        Whether it is there.
    """
    content = render(path, draw)
    if content is not None:
        try:
            atomic.write_bytes(path, content)
            return True
        except InputError as error:
            console.info(f"{error}; all else is there")
    if os.path.exists(path):
        os.unlink(path)  # of an earlier run
    return False

"""Files of a simulation: their names, shapes and records, and how rows are drawn into them."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from runtime import processes
from runtime.records import Record
from runtime.shared_arrays import SharedArrays
from runtime.workers import Workers
from sky import cosmology
from sky.simulation import RowSet

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Output:
    """An array of the output.

    Attributes:
        quantity: What it holds.
        unit: Of its values.
        files: Name of the file of each split that has it, with a place for r.
    """

    quantity: str
    unit: str
    files: Mapping[str, str]


OUTPUTS = {  # by their fields of `simulation.Rows`
    "x": Output("primordial BB", "uK^2", {"train": "dl_train_r{}.npy", "test": "dl_gt_r{}.npy"}),
    "y": Output(
        "observed BB", "uK^2", {"train": "dl_train_noisy_r{}.npy", "test": "dl_noisy_r{}.npy"}
    ),
    "r": Output("r", "1", {"train": "r_train_r{}.npy", "test": "r_gt_r{}.npy"}),
    "u": Output("observed modes", "1/uK", {"test": "modes_noisy_r{}.npy"}),
}
Paths = dict[str, dict[str, str]]  # {split: {name of an output: file}}


def file_label(r: Sequence[float]) -> str:
    """r, one value or the two ends of a range; 0.00001, and 1e-300 where that would be long.

    No two r have the same label: both forms are the shortest that name the number.
    """

    def one(value: float) -> str:
        if value == 0 or 1e-6 <= value < 1e6:
            return np.format_float_positional(value, trim="-")
        return np.format_float_scientific(value, trim="-")

    return "-".join(map(one, r))


def output_paths(out_dir: str, r: Sequence[float], masked: bool = False) -> Paths:
    """Paths of one r, or of a range of r, by split.

    Args:
        out_dir: Folder of the output.
        r: One value, or the two ends of a range, whose rows have an "r" of their own.
        masked: Whether a part of the sky is seen, of whose maps the test set holds "u".
    """
    wanted = {"r": len(r) == 2, "u": masked}
    return {
        split: {
            name: os.path.join(out_dir, output.files[split].format(file_label(r)))
            for name, output in OUTPUTS.items()
            if split in output.files and wanted.get(name, True)
        }
        for split in ("train", "test")
    }


def num_multipoles(name: str, nside: int, masked: bool) -> int:
    """Multipoles of an output, or of what its record says of it."""
    n_ell = len(cosmology.multipoles(nside))
    return n_ell + nside if masked and name in ("y", "u") else n_ell


def shapes(paths: Mapping[str, str], num_rows: int, nside: int, masked: bool) -> dict[str, Shape]:
    """{name of an output: its shape}, of one split of `output_paths`."""
    columns: dict[str, Shape] = {"u": (9 * nside**2 - 4,), "r": ()}
    return {
        name: (num_rows, *columns.get(name, (num_multipoles(name, nside, masked),)))
        for name in paths
    }


def records(splits: Paths, record: Record, nside: int, masked: bool) -> dict[str, Record]:
    """{name of a file: its record}, from what all share."""
    return {
        os.path.basename(path): record.replace(
            split=split,
            quantity=OUTPUTS[name].quantity,
            unit=OUTPUTS[name].unit,
            decoupled=record.decoupled if name == "y" else None,  # it acts on y
        ).first_multipoles(num_multipoles(name, nside, masked))
        for split, paths in splits.items()
        for name, path in paths.items()
    }


def write_rows(
    rows: RowSet,
    paths: Mapping[str, str],
    arrays: SharedArrays,
    workers: Workers,
    on_rows: Callable[[int], Any] = lambda m: None,
) -> None:
    """Draw the blocks of this process and write them.

    Args:
        rows: All rows of a split.
        paths: {"x": file of the truth, "y": of its observation, "r": of r, where each has its own}.
        arrays: Of these files.
        workers: Threads.
        on_rows: Called with the number of rows after each chunk.
    """

    def draw(block: int) -> None:
        for first, chunk in rows.chunks(block):
            for name, path in paths.items():
                arrays.write(os.path.basename(path), first, getattr(chunk, name))
            on_rows(len(chunk.x))

    mine = range(processes.rank(), rows.num_blocks, processes.world_size())
    for _ in workers.finished(draw, mine):
        pass

"""Training rows: read, split, normalised a chunk at a time, and kept where there is room."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

import numpy as np
import torch

from diffusion.normalizers import JointNormalizer, Normalizer
from runtime import belonging, processes, tables
from runtime.errors import InputError
from runtime.priors import FloatArray
from runtime.tables import Table

AnyNormalizer = TypeVar("AnyNormalizer", bound=Normalizer | JointNormalizer)

HELD_OUT_ROWS = 20_000  # at most: enough for a held-out loss to a per cent of itself
BLOCK_VALUES = 2**17  # of held-out rows that pass the network together: 4369 of 30 multipoles
CHUNK_VALUES = 2**22  # float64 values of a file that are worked on together: 32 MiB
CGROUP = "/proc/self/cgroup", "/sys/fs/cgroup"  # name of the own control group; all of them
MEMORY_SHARE = 0.25  # of a machine, a job or a GPU, for rows; larger ones stand in a file


@dataclasses.dataclass(frozen=True)
class Rows:
    """Normalised training rows.

    Attributes:
        values: float32 tensor (n, n_dim + n_cond): spectrum (and r), then observation; on the
            device, in memory, or in a mapped file.
        n_dim: Columns of x.
        device: Where rows are wanted.
    """

    values: torch.Tensor
    n_dim: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(x, y) on the device: shapes (m, n_dim), (m, n_cond); y None without observations."""
        values = self.values[index].to(self.device)
        conditional = values.shape[1] > self.n_dim
        return values[:, : self.n_dim], values[:, self.n_dim :] if conditional else None

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """(x, y) of rows that follow each other, about BLOCK_VALUES values at a time."""
        num_rows = max(1, BLOCK_VALUES // self.values.shape[1])
        for start in range(0, len(self), num_rows):
            yield self[start : start + num_rows]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingTables:
    """Training rows on disk, memory-mapped, which belong together row for row.

    Attributes:
        data: D_ell that is to be learnt.
        cond: Observations; None for the prior alone.
        param: r; None where it is not diffused.
    """

    data: Table
    cond: Table | None = None
    param: Table | None = None

    @classmethod
    def load(
        cls, data_file: str, cond_file: str | None = None, param_file: str | None = None
    ) -> Self:
        """Read training rows.

        Raises:
            InputError: Where rows do not match, or have no logarithm.
        """
        data, cond, param = tables.load_spectra(data_file), None, None
        if data.record.prior.r == 0:
            raise InputError(
                f"{data_file}: is the null test, r = 0: it has no primordial spectrum to learn; "
                "train on r > 0"
            )
        if cond_file:
            cond = tables.load_spectra(cond_file)
        if param_file:
            param = tables.load_r(param_file)
        loaded = cls(data, cond, param)
        loaded._check()
        return loaded

    def _check(self) -> None:
        named = {f"--{name}-file": table for name, table in self.present().items()}
        belonging.check(named)
        for table in filter(None, (self.data, self.cond)):
            tables.check_positive(table, "train on D_ell > 0: leave such rows or multipoles out")

    def present(self) -> dict[str, Table]:
        """The tables that there are, by their name here."""
        named = {"data": self.data, "cond": self.cond, "param": self.param}
        return {name: table for name, table in named.items() if table is not None}

    def digests(self) -> dict[str, str | None]:
        """SHA-256 of each table's values, {"data_sha256", ...}."""
        return {f"{name}_sha256": table.sha256 for name, table in self.present().items()}

    def chunks(self, index: np.ndarray, chosen: list[Table]) -> Iterator[list[torch.Tensor]]:
        """Some rows of some tables, float64, about CHUNK_VALUES values of a file at a time.

        Args:
            index: Row numbers, ascending.
            chosen: Some of these tables.
        """
        step = max(1, CHUNK_VALUES // self.data.values.shape[1])
        starts = np.arange(0, len(self.data.values), step)
        # by their place in the file: what lies between them is mapped along
        for rows in filter(len, np.split(index, np.searchsorted(index, starts[1:]))):
            yield [torch.from_numpy(np.asarray(t.values[rows], float)) for t in chosen]
            for table in chosen:
                tables.release(table.values)


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """Training rows, split and normalised.

    Attributes:
        normalizer: Of D_ell, or of D_ell and r.
        cond_normalizer: Of observations; None without them.
        mean_dl: Mean D_ell of the rows to train on, shape (n_ell,), uK^2.
        train: Rows to train on.
        held_out: Rows that are held out.
    """

    normalizer: Normalizer | JointNormalizer
    cond_normalizer: Normalizer | None
    mean_dl: FloatArray
    train: Rows
    held_out: Rows


def split_rows(n: int, val_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers, ascending, of the training and the validation rows."""
    order = np.random.default_rng(seed).permutation(n)
    n_val = max(1, round(val_fraction * n))
    if n - n_val < 2:
        raise InputError(f"--data-file: {n} rows are too few to train and validate on")
    return np.sort(order[n_val:]), np.sort(order[: min(n_val, HELD_OUT_ROWS)])


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


def memory_budget(device: torch.device) -> float:
    """Bytes that the rows of one process may take on its device."""
    if device.type == "cuda":
        return MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    return MEMORY_SHARE * machine_memory() / processes.local_world_size()


def file_bytes(loaded: TrainingTables, device: torch.device) -> int:
    """Bytes of the file of normalised rows; 0 where they fit into memory."""
    columns = sum(t.values.size // len(t.values) for t in loaded.present().values())
    num_bytes = 4 * len(loaded.data.values) * columns
    return num_bytes if num_bytes > memory_budget(device) else 0


def gather(
    chunks: Iterable[torch.Tensor], n: int, folder: str | None, device: torch.device
) -> torch.Tensor:
    """float32 tensor of n rows that come in chunks: on the device, or where folder is given there.

    Args:
        chunks: Iterable of float32 tensors (m, n_columns), n rows in all.
        n: Number of rows.
        folder: Of a file without a name, which the system removes with the process; or None.
        device: torch.device of rows in memory.
    """
    if folder is None:
        rows, start = torch.empty(0), 0
        for chunk in chunks:
            if start == 0:
                rows = torch.empty((n, chunk.shape[1]), device=device)
            rows[start : start + len(chunk)] = chunk
            start += len(chunk)
        return rows
    with tempfile.TemporaryFile(dir=folder) as file:
        for chunk in chunks:
            file.write(chunk.contiguous().numpy().data)
        file.flush()
        # "c" maps it read-only in effect, but without torch's warning that it is
        return torch.from_numpy(np.memmap(file, np.float32, "c", shape=(n, chunk.shape[1])))


def _checked(table: Table, normalizer: AnyNormalizer) -> AnyNormalizer:
    """The normaliser, whose table must vary at each multipole."""
    if not (normalizer.state_dict()["std"] > 0).all():
        raise InputError(f"{table.path}: a multipole has the same value in each row")
    return normalizer


def _fit(loaded: TrainingTables, train: np.ndarray) -> Normalizer | JointNormalizer:
    data, param = loaded.data, loaded.param
    if param is None:
        return Normalizer.fit(dl for (dl,) in loaded.chunks(train, [data]))
    prior, pairs = param.record.prior, loaded.chunks(train, [data, param])
    assert prior.r_range and prior.signal_template, "tables.load_r asks for both"
    return JointNormalizer.fit(((dl, r) for dl, r in pairs), prior.r_range, prior.signal_template)


def prepare(
    loaded: TrainingTables, val_fraction: float, seed: int, device: torch.device, folder: str
) -> Prepared:
    """Split, fit the normalisers on the training rows alone, and normalise.

    Args:
        loaded: The rows on disk.
        val_fraction: Share of the rows held out.
        seed: Of the split.
        device: torch.device on which the network trains.
        folder: Where rows stand that do not fit into memory.
    """
    data, cond = loaded.data, loaded.cond
    train, held_out = split_rows(len(data.values), val_fraction, seed)
    total = sum((dl.sum(0) for (dl,) in loaded.chunks(train, [data])), start=torch.zeros(()))
    normalizer, cond_normalizer = _checked(data, _fit(loaded, train)), None
    if cond is not None:
        cond_chunks = (dl for (dl,) in loaded.chunks(train, [cond]))
        cond_normalizer = _checked(cond, Normalizer.fit(cond_chunks))

    def normalised(index: np.ndarray) -> Iterator[torch.Tensor]:
        for values in loaded.chunks(index, list(filter(None, (data, loaded.param, cond)))):
            y = [] if cond_normalizer is None else [cond_normalizer.normalize(values.pop())]
            yield torch.cat([normalizer.normalize(*values), *y], 1)

    n_cond = 0 if cond is None else cond.values.shape[1]
    file_folder = folder if file_bytes(loaded, device) else None
    rows_train, rows_held_out = (
        Rows(values, values.shape[1] - n_cond, device)
        for values in (
            gather(normalised(train), len(train), file_folder, device),
            gather(normalised(held_out), len(held_out), None, device),
        )
    )
    mean_dl = (total / len(train)).numpy()
    return Prepared(normalizer, cond_normalizer, mean_dl, rows_train, rows_held_out)

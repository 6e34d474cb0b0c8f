"""Training rows: read, split, normalised a chunk at a time, and kept where there is room."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
import torch

from diffusion import parameters
from diffusion.normalizers import Normalizer, StateNormalizer
from diffusion.observation_law import fitted_skewness
from diffusion.reach import Reach
from runtime import atomic, belonging, formats, processes, resources, tables
from runtime.conventions import UNSAID, Wanted
from runtime.errors import InputError
from runtime.priors import FloatArray, Parameter
from runtime.records import Record
from runtime.tables import Table

HELD_OUT_ROWS = 20_000  # at most: enough for a held-out loss to a per cent of itself
BLOCK_VALUES = 2**17  # of held-out rows that pass the network together: 4369 of 30 multipoles
CHUNK_VALUES = 2**22  # float64 values of a file that are worked on together: 32 MiB
# in units of a column's median size: asinh is linear below its scale, for a Gaussian column six
# standard deviations; what is linear in it stays so, and the tails of others are drawn in
ASINH_SCALE = 10
SCALE_ROWS = 10_000  # from which the scale of a column with both signs is taken
UNNAMED = "normalised rows"  # the file of rows that do not fit, for messages
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
        data: D_ell that is to be learnt; None where parameters alone are.
        cond: Observations; None for the prior alone.
        param: Parameters, shape (n,) or (n, n_param); None where none is diffused.
        parameters: Their names and ranges, column by column.
    """

    data: Table | None
    cond: Table | None = None
    param: Table | None = None
    parameters: tuple[Parameter, ...] = ()

    @classmethod
    def load(
        cls,
        data_file: str | None,
        cond_file: str | None = None,
        param_file: str | None = None,
        declared: tuple[Parameter, ...] = (),
    ) -> Self:
        """Read training rows.

        Args:
            data_file, cond_file, param_file: As the attributes; of the first and the last, one.
            declared: Columns of param_file, which its record may name as well.

        Raises:
            InputError: Where rows do not match, or have no logarithm.
        """
        data, cond, param = None, None, None
        if data_file:
            data = tables.load_spectra(data_file)
            if data.record.prior.r == 0:
                raise InputError(
                    f"{data_file}: is the null test, r = 0: it has no primordial spectrum to "
                    "learn; train on r > 0"
                )
        if cond_file:
            columns = formats.map_npy(cond_file).shape[-1]
            aligned = data is not None and columns == data.values.shape[1]
            cond = tables.load_spectra(cond_file, UNSAID, Wanted(columns, multipoles=aligned))
        named: tuple[Parameter, ...] = ()
        if param_file:
            param = tables.load_table(param_file, (1, 2))
            named = parameters.name_columns(param, declared)
        loaded = cls(data, cond, param, named)
        loaded._check()
        return loaded

    def _check(self) -> None:
        belonging.check({f"--{name}-file": table for name, table in self.present().items()})
        if self.data is not None:
            advice = "train on D_ell > 0: leave such rows or multipoles out"
            tables.check_positive(self.data, advice)

    @property
    def num_rows(self) -> int:
        """Rows of each table."""
        return len(next(iter(self.present().values())).values)

    @property
    def n_ell(self) -> int:
        """Multipoles that are diffused."""
        return 0 if self.data is None else self.data.values.shape[1]

    @property
    def n_cond(self) -> int:
        """Columns of observations."""
        return 0 if self.cond is None else self.cond.values.shape[1]

    @property
    def record(self) -> Record:
        """What is known of the rows: their prior, sky and contaminants."""
        known = self.data or self.param
        assert known is not None, "load() asks for one"
        prior = known.record.prior
        if self.parameters:
            same = self.param is not None and self.param.record.prior.r_range == prior.r_range
            template = prior.signal_template if same else None
            prior = dataclasses.replace(prior, parameters=self.parameters, signal_template=template)
        return known.record.replace(prior=prior)

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
        columns = max(table.values.size for table in self.present().values()) // self.num_rows
        starts = np.arange(0, self.num_rows, max(1, CHUNK_VALUES // columns))
        # by their place in the file: what lies between them is mapped along
        for rows in filter(len, np.split(index, np.searchsorted(index, starts[1:]))):
            yield [torch.from_numpy(parameters.as_rows(table.values[rows])) for table in chosen]
            for table in chosen:
                tables.release(table.values)

    def rows(self, index: np.ndarray) -> Iterator[list[torch.Tensor]]:
        """As `chunks`, of all tables: (dl, theta, y), without columns where there is no table."""
        chosen = [self.data, self.param, self.cond]
        for found in self.chunks(index, [table for table in chosen if table is not None]):
            empty = found[0].new_empty((len(found[0]), 0))
            yield [empty if table is None else found.pop(0) for table in chosen]


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """Training rows, split and normalised.

    Attributes:
        normalizer: Of what is diffused.
        cond_normalizer: Of observations; None without them.
        mean_dl: Mean D_ell of the rows to train on, shape (n_ell,), uK^2; None without spectra.
        train: Rows to train on.
        held_out: Rows that are held out.
        reach: How far they reach in normalised units: observations, or spectra without any.
    """

    normalizer: StateNormalizer
    cond_normalizer: Normalizer | None
    mean_dl: FloatArray | None
    train: Rows
    held_out: Rows
    reach: Reach


def split_rows(n: int, val_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers, ascending, of the training and the validation rows."""
    order = np.random.default_rng(seed).permutation(n)
    n_val = max(1, round(val_fraction * n))
    if n - n_val < 2:
        raise InputError(f"{n} rows are too few to train and validate on; give more")
    return np.sort(order[n_val:]), np.sort(order[: min(n_val, HELD_OUT_ROWS)])


def memory_budget(device: torch.device) -> float:
    """Bytes that the rows of one process may take on its device."""
    if device.type == "cuda":
        return MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    return MEMORY_SHARE * resources.machine_memory() / processes.local_world_size()


def file_bytes(loaded: TrainingTables, device: torch.device) -> int:
    """Bytes of the file of normalised rows; 0 where they fit into memory."""
    columns = sum(t.values.size // len(t.values) for t in loaded.present().values())
    num_bytes = 4 * loaded.num_rows * columns
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
    named = atomic.failures_named(os.path.join(folder, UNNAMED))
    with named, tempfile.TemporaryFile(dir=folder) as file:
        for chunk in chunks:
            file.write(chunk.contiguous().numpy().data)
        file.flush()
        # "c" maps it read-only in effect, but without torch's warning that it is
        return torch.from_numpy(np.memmap(file, np.float32, "c", shape=(n, chunk.shape[1])))


def _checked(table: Table, normalizer: Normalizer) -> Normalizer:
    """The normaliser, whose table must vary at each multipole."""
    constant = (normalizer.std <= 0).nonzero().flatten().tolist()
    if constant:
        raise InputError(
            f"{table.path}: column {constant[0]} has the same value in each row; leave it out"
        )
    return normalizer


def _fit_state(loaded: TrainingTables, train: np.ndarray) -> StateNormalizer:
    """Normaliser of what is diffused."""
    prior = loaded.record.prior
    signal = prior.signal_template if loaded.parameters and loaded.data is not None else None
    states = ((dl, theta) for dl, theta, _ in loaded.rows(train))
    normalizer = StateNormalizer.fit(states, loaded.parameters, signal)
    if loaded.data is not None:
        _checked(loaded.data, normalizer.spectrum)
    return normalizer


def _check_scale(table: Table, size: np.ndarray) -> None:
    """InputError where columns are of a size (n_columns,) that float32 does not hold; 0 is none."""
    tiny, huge = (float(getattr(np.finfo(np.float32), name)) for name in ("tiny", "max"))
    for column in np.flatnonzero((size > 0) & ((size < tiny) | (size > huge))):
        raise InputError(
            f"{table.path}: column {column} takes both signs and is of the order of "
            f"{size[column]:.0e}; scale it to the order of 1"
        )


def _fit_observations(loaded: TrainingTables, cond: Table, train: np.ndarray) -> Normalizer:
    """Normaliser of observations: logarithms of columns that are above 0 in all rows."""
    lowest = np.min([rows.min(0) for rows in tables.chunks(cond.values)], 0)
    scale = None
    if (lowest <= 0).any():
        some = train[:: max(1, len(train) // SCALE_ROWS)]
        size = np.median(np.abs(cond.values[some]), 0)
        # a column that is mostly zero has the scale of what it holds otherwise
        with np.errstate(over="ignore"):
            size = np.where(size > 0, size, np.sqrt(np.square(cond.values[some]).mean(0)))
        _check_scale(cond, np.where(lowest <= 0, size, 0.0))
        size = ASINH_SCALE * np.where(size > 0, size, 1.0)
        scale = torch.from_numpy(np.where(lowest <= 0, size, 0.0))
    chunks = (y for (y,) in loaded.chunks(train, [cond]))
    return _checked(cond, Normalizer.fit(chunks, scale))


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
    cond, mean_dl, cond_normalizer = loaded.cond, None, None
    train, held_out = split_rows(loaded.num_rows, val_fraction, seed)
    if loaded.data is not None:
        chunks = (dl.sum(0) for (dl,) in loaded.chunks(train, [loaded.data]))
        mean_dl = (sum(chunks, start=torch.zeros(())) / len(train)).numpy()
    normalizer = _fit_state(loaded, train)
    if cond is not None:
        cond_normalizer = _fit_observations(loaded, cond, train)

    def normalised(index: np.ndarray) -> Iterator[torch.Tensor]:
        for dl, theta, y in loaded.rows(index):
            observed = y.float() if cond_normalizer is None else cond_normalizer.normalize(y)
            yield torch.cat([normalizer.normalize(dl, theta), observed], 1)

    file_folder = folder if file_bytes(loaded, device) else None
    rows_train, rows_held_out = (
        Rows(values, values.shape[1] - loaded.n_cond, device)
        for values in (
            gather(normalised(train), len(train), file_folder, device),
            gather(normalised(held_out), len(held_out), None, device),
        )
    )
    entering = (x if y is None else y for x, y in rows_train.blocks())
    reach = Reach.of(entering)
    if cond is None:  # the shape of a prior, into which a likelihood may enter
        cubes = [(x.double() ** 3).sum(0) for x, _ in rows_train.blocks()]
        mean_cubes = (torch.stack(cubes).sum(0) / len(train))[: loaded.n_ell]
        skewness = fitted_skewness(mean_cubes, len(train))
        spectrum = dataclasses.replace(normalizer.spectrum, skewness=skewness)
        normalizer = dataclasses.replace(normalizer, spectrum=spectrum)
    return Prepared(normalizer, cond_normalizer, mean_dl, rows_train, rows_held_out, reach)

"""Training rows: read, split, normalised a chunk at a time, and kept where there is room."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile

import numpy as np

from runtime import processes, tables
from runtime.errors import InputError

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

    values: object
    n_dim: int
    device: object

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        """(x, y) on the device: shapes (m, n_dim), (m, n_cond); y None without observations."""
        values = self.values[index].to(self.device)
        conditional = values.shape[1] > self.n_dim
        return values[:, : self.n_dim], values[:, self.n_dim :] if conditional else None

    def blocks(self):
        """(x, y) of rows that follow each other, about BLOCK_VALUES values at a time."""
        num_rows = max(1, BLOCK_VALUES // self.values.shape[1])
        for start in range(0, len(self), num_rows):
            yield self[start : start + num_rows]


def load(data_file, cond_file=None, param_file=None):
    """Training rows from disk, memory-mapped.

    Returns:
        {"data", "cond", "param"}: `storage.Table` of truth, observation and r, the last two None
        where no file is given.

    Raises:
        InputError: Where rows do not match, or have no logarithm.
    """
    loaded = {"data": tables.load_spectra(data_file), "cond": None, "param": None}
    if loaded["data"].metadata.get("r") == 0:
        raise InputError(
            f"{data_file}: is the null test, r = 0: it has no primordial spectrum to learn; "
            "train on r > 0"
        )
    if cond_file:
        loaded["cond"] = tables.load_spectra(cond_file)
        tables.check_quantity("--data-file", loaded["data"], "primordial BB")
        tables.check_quantity("--cond-file", loaded["cond"], "observed BB")
    if param_file:
        loaded["param"] = tables.load_r(param_file)
    for table in filter(None, (loaded["cond"], loaded["param"])):
        tables.check_same_rows(loaded["data"], table)
    for table in filter(None, (loaded["data"], loaded["cond"])):
        if tables.minimum(table.values) <= 0:
            raise InputError(
                f"{table.path}: holds zeros, which have no logarithm; train on D_ell > 0"
            )
    return loaded


def split_rows(n, val_fraction, seed):
    """Row numbers, ascending, of the training and the validation rows."""
    order = np.random.default_rng(seed).permutation(n)
    n_val = max(1, round(val_fraction * n))
    if n - n_val < 2:
        raise InputError(f"--data-file: {n} rows are too few to train and validate on")
    return np.sort(order[n_val:]), np.sort(order[: min(n_val, HELD_OUT_ROWS)])


def machine_memory():
    """Bytes of memory that the processes here may have: the machine's, or those of their job."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError):  # no control groups of version 2
        own, root = map(pathlib.Path, CGROUP)
        group = own.read_text().rpartition("::/")[2].strip()
        for folder in (root / group, *(root / group).parents):
            with contextlib.suppress(OSError, ValueError):  # "max", or another namespace
                limits.append(int((folder / "memory.max").read_text()))
    return min(limits)


def memory_budget(device):
    """Bytes that the rows of one process may take on its device."""
    if device.type == "cuda":
        import torch

        return MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    return MEMORY_SHARE * machine_memory() / processes.local_world_size()


def file_bytes(loaded, device):
    """Bytes of the file of normalised rows; 0 where they fit into memory."""
    columns = sum(t.values.size // len(t.values) for t in loaded.values() if t)
    num_bytes = 4 * len(loaded["data"].values) * columns
    return num_bytes if num_bytes > memory_budget(device) else 0


def gather(chunks, n, folder, device):
    """float32 tensor of n rows that come in chunks: on the device, or where folder is given there.

    Args:
        chunks: Iterable of float32 tensors (m, n_columns), n rows in all.
        n: Number of rows.
        folder: Of a file without a name, which the system removes with the process; or None.
        device: torch.device of rows in memory.
    """
    import torch

    if folder is None:
        rows, start = None, 0
        for chunk in chunks:
            if rows is None:
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


def prepare(loaded, val_fraction, seed, device, folder):
    """Split, fit the normalisers on the training rows alone, and normalise.

    Args:
        loaded: From `load`.
        val_fraction: Share of the rows held out.
        seed: Of the split.
        device: torch.device on which the network trains.
        folder: Where rows stand that do not fit into memory.

    Returns:
        (record, train, val): the normalisers and the mean D_ell of the training rows (uK^2), for
        the checkpoint; and twice `Rows`.
    """
    import torch

    from diffusion import normalizers

    data, cond, param = loaded["data"], loaded["cond"], loaded["param"]
    train, val = split_rows(len(data.values), val_fraction, seed)

    def chunks(index, *chosen):
        step = max(1, CHUNK_VALUES // data.values.shape[1])
        starts = np.arange(0, len(data.values), step)
        # by their place in the file: what lies between them is mapped along
        for rows in filter(len, np.split(index, np.searchsorted(index, starts[1:]))):
            yield [torch.from_numpy(np.asarray(t.values[rows], float)) for t in chosen]
            for table in chosen:
                tables.release(table.values)

    def checked(table, normalizer):
        if not (normalizer.state_dict()["std"] > 0).all():
            raise InputError(f"{table.path}: a multipole has the same value in each row")
        return normalizer

    mean_dl = sum(dl.sum(0) for (dl,) in chunks(train, data)) / len(train)
    if param is None:
        normalizer = normalizers.Normalizer.fit(dl for (dl,) in chunks(train, data))
    else:
        pairs = chunks(train, data, param)
        normalizer = normalizers.JointNormalizer.fit(pairs, param.r_range, param.signal)
    record = {"mean_dl": mean_dl.tolist(), "cond_normalizer": None}
    record["normalizer"] = checked(data, normalizer).state_dict()
    if cond is not None:
        cond_normalizer = normalizers.Normalizer.fit(dl for (dl,) in chunks(train, cond))
        record["cond_normalizer"] = checked(cond, cond_normalizer).state_dict()

    def normalised(index):
        for values in chunks(index, *filter(None, (data, param, cond))):
            y = [] if cond is None else [cond_normalizer.normalize(values.pop())]
            yield torch.cat([normalizer.normalize(*values), *y], 1)

    n_dim = data.values.shape[1] + (param is not None)
    folder = folder if file_bytes(loaded, device) else None
    rows_train = Rows(gather(normalised(train), len(train), folder, device), n_dim, device)
    rows_val = Rows(gather(normalised(val), len(val), None, device), n_dim, device)
    return record, rows_train, rows_val

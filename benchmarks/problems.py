"""The problems of compare.py: what all tools have in common, and the data of a seed."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

import data_generation
import model
from diffusion import dataset
from runtime import atomic, tables

if TYPE_CHECKING:
    import torch

CLEAN = ("--foregrounds", "none", "--noise-uk-arcmin", "1")


@dataclasses.dataclass(frozen=True)
class Problem:
    """What all tools have in common.

    Attributes:
        title: For the table.
        flags: Of data_generation.py.
        num_train, num_test: Rows to train on, and to compare with.
        hidden_dim, num_layers: Of all networks.
        batch_size, epochs, lr: Of train.py.
        num_samples: Rows to generate; of a posterior num_test * num_draws.
        num_draws: Posterior draws per observation, or None.
    """

    title: str
    flags: tuple[str, ...]
    num_train: int
    num_test: int
    hidden_dim: int
    num_layers: int
    batch_size: int
    epochs: int
    lr: float
    num_samples: int
    num_draws: int | None = None

    @property
    def r(self) -> tuple[float, ...]:
        """r, or the range of it, as the names of the data files have it."""
        return (0.0, 0.01) if "--r-range" in self.flags else (0.001,)


ONE_R, RANGE = ("--r", "0.001"), ("--r-range", "0", "0.01")
GENERATE = (128, 3, 128, 40, 7e-4, 10_000)
INFER = (128, 2, 1024, 20, 4e-3, 19_200, 64)
PROBLEMS = {
    "prior": Problem("spectra, r = 0.001", ONE_R, 10_000, 10, *GENERATE),
    "correlated": Problem(
        "correlated spectra",
        (*ONE_R, "--foregrounds", "gaussian-ensemble"),
        10_000,
        50_000,
        *GENERATE,
    ),
    "posterior": Problem("posterior, r = 0.001", (*ONE_R, *CLEAN), 50_000, 300, *INFER),
    "joint": Problem("posterior, r in [0, 0.01]", (*RANGE, *CLEAN), 50_000, 300, *INFER),
}


class Task:
    """Data of a problem and a seed, as train.py prepares them.

    Attributes:
        problem, seed, folder: What was asked for.
        files: Training rows, {"x", "y" and, for a range, "r"}.
        x_train, x_val, y_train, y_val: Normalised tensors; y None without a posterior.
        observed, truth: Tables of the test set.
        r_true: Shape (n,), or None.
        y_test: Normalised observations of the test set, or None.
    """

    def __init__(self, problem: Problem, seed: int, folder: str) -> None:
        import torch

        self.problem, self.seed, self.folder = problem, seed, folder
        self.conditional = problem.num_draws is not None
        rows = ["--num-samples", str(problem.num_train), "--num-test", str(problem.num_test)]
        common = ["--out-dir", folder, "--seed", str(seed)]
        data_generation.main([*problem.flags, *rows, *common])
        paths = data_generation.output_paths(folder, problem.r)
        self.files = paths["train"]
        self.observed, self.truth = (tables.load_spectra(paths["test"][k]) for k in "yx")
        self.r_true = np.full(problem.num_test, problem.r[0])
        data, cond = self.files["x"], self.files["y"]
        if not self.conditional:
            if "--foregrounds" in problem.flags:
                # observed spectra are to be generated, whose multipoles correlate: a bare array,
                # for train.py takes none that a record calls an observation
                data = f"{folder}/correlated.npy"
                atomic.write_npy(data, tables.load_spectra(cond).values)
            cond = None
            self.files = {"x": data}
        if "r" in self.files:
            self.r_true = tables.load_r(paths["test"]["r"]).values
        loaded = dataset.TrainingTables.load(data, cond, self.files.get("r"))
        self.table, self.signal = loaded.data, loaded.data.record.prior.signal_template
        prepared = dataset.prepare(loaded, 0.05, seed, torch.device("cpu"), folder)
        self.x_train, self.y_train = prepared.train[:]
        self.x_val, self.y_val = prepared.held_out[:]
        self.normalizer = prepared.normalizer
        self.prior = dataclasses.replace(self.table.record.prior, mean_dl=prepared.mean_dl)
        self.y_test = None
        if self.conditional:
            self.y_test = prepared.cond_normalizer.normalize(torch.tensor(self.observed.values))

    def denormalize(self, x: "torch.Tensor") -> tuple[np.ndarray, np.ndarray | None]:
        """(D_ell, r) as arrays, r None where it is fixed, from normalised rows."""
        dl, theta = self.normalizer.denormalize(x)
        return dl.numpy(), theta[:, 0].numpy() if theta.shape[1] else None

    def make_network(self) -> model.ScoreNet1D:
        """ScoreNet1D of the problem's size, unconditional, which knows no covariance."""
        import sde_utils

        size = {"hidden_dim": self.problem.hidden_dim, "num_layers": self.problem.num_layers}
        return model.ScoreNet1D(
            sde_utils.VESDE(), model.Architecture(self.x_train.shape[1], **size)
        )

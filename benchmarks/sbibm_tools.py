"""The tools of sbibm.py, each from simulations to posterior draws, and sbibm's side of it."""

import dataclasses
import functools
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import special

import sample
import train
from benchmarks.tools import Silent
from runtime.jsonfiles import Json
from runtime.priors import FloatArray


@functools.cache
def get_task(name: str) -> Any:
    """The task, from the package."""
    import sbibm

    return sbibm.get_task(name)


def c2st(task: str, observation: int, draws: FloatArray) -> float:
    """sbibm's C2ST of draws (n, n_param) and the reference; 1 where some are not finite."""
    from sbibm.metrics.c2st import c2st

    if not np.isfinite(draws).all():
        return 1.0
    reference = get_task(task).get_reference_posterior_samples(observation)
    return float(c2st(reference[: len(draws)], torch.from_numpy(draws).float()))


@dataclasses.dataclass(frozen=True)
class UnitPrior:
    """A prior of independent parameters, as the uniform law between 0 and 1 and back.

    Attributes:
        low, high: Ends of uniform parameters, shape (n_param,); None for Gaussian ones.
        std: Standard deviation of Gaussian ones around 0, shape (n_param,); None for uniform.
    """

    low: FloatArray | None = None
    high: FloatArray | None = None
    std: FloatArray | None = None

    def to_unit(self, theta: FloatArray) -> FloatArray:
        """The prior's distribution function of parameters (n, n_param), strictly within 0 and 1."""
        if self.std is not None:
            return special.ndtr(theta / self.std)
        # a draw in single precision can lie on an edge, where a probit is infinite
        edge = float(np.finfo(np.float32).eps) / 4
        return np.clip((theta - self.low) / (self.high - self.low), edge, 1 - edge)

    def from_unit(self, unit: FloatArray) -> FloatArray:
        """Parameters from `to_unit` of them."""
        if self.std is not None:
            return special.ndtri(unit) * self.std
        return self.low + (self.high - self.low) * unit


@dataclasses.dataclass(frozen=True, eq=False)
class Simulations:
    """Simulations of a task, and its observations.

    Attributes:
        task: Name.
        seed: Of the simulations, and of the training and draws.
        theta, y: Float32 tensors, shapes (n, n_param) and (n, n_data).
        observed: The task's observations that are asked for, shape (n_obs, n_data).
    """

    task: str
    seed: int
    theta: torch.Tensor
    y: torch.Tensor
    observed: torch.Tensor

    @classmethod
    def of(cls, name: str, n: int, seed: int, observations: Sequence[int]) -> "Simulations":
        """n simulations with parameters from the prior; the same seed gives the same."""
        task = get_task(name)
        torch.manual_seed(seed)
        theta = task.get_prior()(num_samples=n)
        y = task.get_simulator()(theta)
        observed = torch.cat([task.get_observation(number) for number in observations])
        return cls(name, seed, theta, y, observed)

    @property
    def prior(self) -> UnitPrior:
        """Its prior."""
        values = {k: v.double().numpy() for k, v in get_task(self.task).prior_params.items()}
        if "low" in values:
            return UnitPrior(values["low"], values["high"])
        return UnitPrior(std=np.diag(values["precision_matrix"]) ** -0.5)


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """Posterior draws, and what they took.

    Attributes:
        draws: Parameters, shape (n_obs, num_draws, n_param).
        epochs: Of the training.
        training_seconds, sampling_seconds: CPU time of the process.
    """

    draws: FloatArray
    epochs: int
    training_seconds: float
    sampling_seconds: float


class Tool:
    """What sbibm.py needs of a tool.

    Attributes:
        about: Network and training, one line of Markdown.
        packages: Whose versions are recorded.
    """

    about: str
    packages: tuple[str, ...] = ()

    @staticmethod
    def settings(task: str, simulations: int) -> Json:
        """All that is set, for a task with a number of simulations."""
        raise NotImplementedError

    def run(self, simulations: Simulations, num_draws: int, folder: str) -> Drawn:
        """Train and draw; `folder` is for files of its own."""
        raise NotImplementedError


class Ours(Tool):
    """train.py and sample.py on bare arrays."""

    about = (
        "`train.py` on the bare arrays (4 layers of 128, AdamW at 3e-3 in batches of 256, a number "
        "of epochs that was fixed on other seeds and observations), `sample.py --method ode`"
    )

    @staticmethod
    def settings(task: str, simulations: int) -> Json:
        sizes = {"hidden_dim": 128, "embed_dim": 64, "num_layers": 4}
        epochs = 250 if simulations <= 20_000 else 60
        return sizes | {"batch_size": 256, "epochs": epochs, "lr": 3e-3}

    def run(self, simulations: Simulations, num_draws: int, folder: str) -> Drawn:
        settings, prior = self.settings(simulations.task, len(simulations.theta)), simulations.prior
        unit = prior.to_unit(simulations.theta.double().numpy())
        names = [f"theta{k}" for k in range(unit.shape[1])]
        arrays = {"theta": unit, "y": simulations.y, "observed": simulations.observed}
        paths = {name: os.path.join(folder, f"{name}.npy") for name in arrays}
        for name, values in arrays.items():
            np.save(paths[name], np.asarray(values, np.float64))
        checkpoint = os.path.join(folder, "model.pth")
        common = ["--seed", str(simulations.seed), "--device", "cpu"]
        argv = ["--cond-file", paths["y"], "--param-file", paths["theta"], "--out", checkpoint]
        for name in names:
            argv += ["--param", name, "0", "1"]
        for name, value in settings.items():
            argv += [f"--{name.replace('_', '-')}", str(value)]
        began = time.process_time()
        train.main([*argv, *common])
        trained = time.process_time()
        argv = ["--model-checkpoint", checkpoint, "--data-file-noisy", paths["observed"]]
        argv += ["--num-draws", str(num_draws), "--method", "ode", "--out-dir", folder]
        sample.main([*argv, *common])
        done = time.process_time()
        draws = [np.load(os.path.join(folder, f"{name}_draws.npy")) for name in names]
        draws = prior.from_unit(np.stack(draws, -1))
        return Drawn(draws, settings["epochs"], trained - began, done - trained)


class Npse(Tool):
    """NPSE of sbi, with its defaults."""

    about = (
        "sbi's `NPSE` with its defaults: `mlp` of 5 layers of 100, VE, Adam at 5e-4 in batches of "
        "200 until its own rule stops it, its SDE sampler of 500 steps, draws outside the prior "
        "rejected"
    )
    packages = ("sbi",)

    @staticmethod
    def settings(task: str, simulations: int) -> Json:
        return {}

    def run(self, simulations: Simulations, num_draws: int, folder: str) -> Drawn:
        from sbi.inference import NPSE

        torch.manual_seed(simulations.seed)
        began = time.process_time()
        inference = NPSE(
            prior=get_task(simulations.task).get_prior_dist(),
            tracker=Silent(),
            show_progress_bars=False,
        )
        inference.append_simulations(simulations.theta, simulations.y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inference.train()
            posterior = inference.build_posterior()
        trained = time.process_time()
        draws = [
            posterior.sample((num_draws,), x=observed[None], show_progress_bars=False)
            for observed in simulations.observed
        ]
        done = time.process_time()
        epochs = inference.summary["epochs_trained"][-1]
        return Drawn(torch.stack(draws).numpy(), epochs, trained - began, done - trained)


TOOLS: dict[str, type[Tool]] = {"ours": Ours, "npse": Npse}

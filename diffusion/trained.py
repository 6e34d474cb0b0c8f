"""A trained model: everything that sampling, evaluation and a resumed training need of it.

In a notebook:
    trained = Trained.load("posterior.pth")
    draws = trained.posterior(y, num_draws=64, seed=0)  # draws.dl in uK^2, draws.r
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from diffusion.blocks import Blocks, default_batch_size
from diffusion.guidance import Guidance
from diffusion.normalizers import POSITIVE, Normalizer, StateNormalizer
from diffusion.outputs import PosteriorDraws, known_dl
from diffusion.reach import Reach
from diffusion.sampling import ReverseProcess, Sampler
from diffusion.solver_settings import SolverSettings
from model import Architecture, ScoreNet1D
from runtime import checkpoints, tables
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.priors import FloatArray, Parameter
from runtime.records import Record, Sky
from runtime.tables import Table
from sde_utils import SDES, VESDE, VPSDE

MAX_LAYER_WIDTH = 65536  # far above use; keeps a hostile checkpoint from asking for terabytes
MAX_LAYERS = 1024  # likewise
MAY_BE_ZERO = ("n_ell", "n_cond", "n_param")


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A checkpoint, rebuilt.

    Attributes:
        architecture: Sizes of the network.
        sde_name: A key of sde_utils.SDES.
        sde: The forward process.
        network: With the averaged (EMA) weights, in evaluation mode.
        normalizer: Of what is diffused.
        cond_normalizer: Of observations; None for an unconditional network.
        reach: How far training rows reach; None in checkpoints that do not say it.
        data: Record of the training rows; its prior holds their mean_dl.
        weights: Of the network in training, {name: tensor}.
        ema_weights: Their average.
        training: {"settings", "history", "levels"}.
        resume: State of an unfinished training; empty when finished.
        guidance: Likelihood that makes a model of the prior one of posteriors, see
            `guided.with_likelihood`; None without one.
    """

    architecture: Architecture
    sde_name: str
    sde: VESDE | VPSDE
    network: ScoreNet1D
    normalizer: StateNormalizer
    cond_normalizer: Normalizer | None
    reach: Reach | None
    data: Record
    weights: Mapping[str, torch.Tensor]
    ema_weights: Mapping[str, torch.Tensor]
    training: Mapping[str, Any]
    resume: Mapping[str, Any]
    guidance: Guidance | None = None

    @classmethod
    def load(cls, path: str) -> Self:
        """Read a checkpoint of train.py; the network is on the CPU.

        All is checked before the network is built.

        Raises:
            InputError: If the file is missing, damaged, foreign, or of another version.
        """
        content = checkpoints.read(path)
        architecture, outline = _outline(path, content)
        shapes = {name: tensor.shape for name, tensor in outline.state_dict().items()}
        for name in ("weights", "ema_weights"):
            _check_tensors(path, name, content.get(name), shapes)
            if not (content[name].get("start.variances", torch.ones(1)) > 0).all():
                raise InputError(f"{path}: {name} start.variances is not above 0; train again")
        for key in ("training", "data", "resume"):
            if not isinstance(content.get(key), dict):
                raise InputError(f"{path}: {key} is missing; train again")
        data = _read_record(path, content["data"])
        spectrum = _read_normalizer(path, content, "normalizer", architecture.n_ell)
        cond_normalizer = None
        if architecture.conditional:
            n_cond = architecture.n_cond
            cond_normalizer = _read_normalizer(path, content, "cond_normalizer", n_cond)
        network = ScoreNet1D(outline.sde, architecture)
        network.load_state_dict(content["ema_weights"])
        return cls(
            architecture=architecture,
            sde_name=content["sde"]["name"],
            sde=outline.sde,
            network=network.eval().requires_grad_(False),
            normalizer=_make_state_normalizer(path, spectrum, architecture, data),
            cond_normalizer=cond_normalizer,
            reach=_read_reach(path, content),
            data=data,
            **{name: content[name] for name in ("weights", "ema_weights", "training", "resume")},
        )

    @property
    def conditional(self) -> bool:
        """Whether it was trained on pairs of truth and observation."""
        return self.architecture.conditional

    @property
    def draws_posterior(self) -> bool:
        """Whether draws are of p(state | y): it has learnt that, or a likelihood guides it."""
        return self.conditional or self.guidance is not None

    @property
    def joint(self) -> bool:
        """Whether parameters are diffused."""
        return self.architecture.joint

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters that are diffused."""
        return self.normalizer.parameters

    @property
    def known_sky(self) -> Sky:
        """What the model knows of the sky: nothing if it has seen no observation."""
        return self.data.sky if self.conditional else Sky()

    def normalize_dl(self) -> Callable[[FloatArray], FloatArray] | None:
        """D_ell (n, n_ell) in uK^2 to normalised units; None where draws are of a posterior.

        Its mean is one of D_ell.
        """
        if self.draws_posterior or self.joint:
            return None
        return lambda dl: self.normalizer.spectrum.normalize(torch.from_numpy(dl)).double().numpy()

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """The same model; its network moves to a device, in place as networks of torch do."""
        self.network.to(device)
        return self

    def sampler(
        self,
        settings: SolverSettings,
        blocks: Blocks,
        observed: np.ndarray | None = None,
        shown: int | None = None,
    ) -> Sampler:
        """What draws any block of rows, on the device of the network.

        Args:
            settings: Of the solver.
            blocks: How rows are cut.
            observed: D_ell, shape (n, n_ell), uK^2, perhaps on disk; None to generate.
            shown: Observation of whose first draw the states are kept; None for none.
        """
        process = ReverseProcess(
            *(self.architecture, self.sde, self.network, self.network.start, settings, self.device)
        )
        return Sampler(
            *(process, blocks, self.normalizer, self.cond_normalizer, observed, shown),
            guidance=self.guidance,
        )

    def posterior(
        self,
        y: npt.ArrayLike,
        num_draws: int = 64,
        seed: int = 0,
        method: str = "ode",
        num_steps: int | None = None,
        device: torch.device | str | None = None,
    ) -> PosteriorDraws:
        """Draws of the posterior p(D_ell | y), or p(D_ell, r | y): those of sample.py.

        Args:
            y: Observations as the model was trained on, D_ell in uK^2, shape (n, n_cond), or
                (n_cond,) of one.
            num_draws: Draws for each row of y.
            seed: Of all random numbers.
            method: A key of solvers.SOLVERS.
            num_steps: Of the solver; None for what its line recommends.
            device: Where to compute; None for where the network is.

        Raises:
            InputError: If it draws no posteriors, or an argument does not fit it.
            DivergedError: If a draw is not finite.
        """
        if not self.draws_posterior:
            raise InputError(
                "the model is one of the prior: it has no posterior without a likelihood, see "
                "guided.with_likelihood; or use generate()"
            )
        observed = self._check_observations(y)
        settings = SolverSettings.complete(method=method, num_steps=num_steps, seed=seed)
        return self._draw(settings, len(observed), num_draws, observed, device)

    def generate(
        self,
        num_samples: int,
        seed: int = 0,
        method: str = "ode",
        num_steps: int | None = None,
        device: torch.device | str | None = None,
    ) -> FloatArray:
        """Spectra of the prior p(D_ell) that the model has learned, shape (num_samples, n_ell).

        Args:
            num_samples: How many.
            seed, method, num_steps, device: As for `posterior`.

        Returns:
            D_ell, uK^2.

        Raises:
            InputError: If the model is conditional, or an argument does not fit it.
            DivergedError: If a spectrum is not finite.
        """
        if self.conditional:
            raise InputError("the model is conditional: it needs observations; use posterior()")
        settings = SolverSettings.complete(method=method, num_steps=num_steps, seed=seed)
        return known_dl(self._draw(settings, num_samples, 1, None, device))[:, 0]

    def _check_observations(self, y: npt.ArrayLike) -> FloatArray:
        """y as a float64 array; InputError unless it holds one or more observations."""
        observed = np.atleast_2d(np.asarray(y, float))
        n_cond = self.architecture.n_cond or self.architecture.n_ell
        if observed.ndim != 2 or not len(observed) or observed.shape[1] != n_cond:
            raise InputError(
                f"y has shape {observed.shape}; needed is (n, {n_cond}), one observation a row"
            )
        if not np.isfinite(observed).all():
            raise InputError("y holds values that are not finite")
        normalizer = self.cond_normalizer or self.normalizer.spectrum
        columns = normalizer.must_be_positive().numpy()
        if columns.any():
            tables.check_positive(Table("y", observed, Record()), POSITIVE, columns)
        return observed

    def _draw(
        self,
        settings: SolverSettings,
        num_samples: int,
        num_draws: int,
        observed: FloatArray | None,
        device: torch.device | str | None,
    ) -> PosteriorDraws:
        for name, value in (("num_samples", num_samples), ("num_draws", num_draws)):
            if value < 1:
                raise InputError(f"{name} is {value}; needed is 1 or more")
        trained = self if device is None else self.to(device)
        batch_size = default_batch_size(trained.device, self.architecture.n_dim)
        blocks = Blocks(num_samples, num_draws, batch_size)
        return trained.sampler(settings, blocks, observed).draw_all()


def _is_possible(name: str, size: object) -> bool:
    """Whether a size of a network is one that this program would build."""
    smallest = 0 if name in MAY_BE_ZERO else 1
    largest = MAX_LAYERS if name == "num_layers" else MAX_LAYER_WIDTH
    return type(size) is int and smallest <= size <= largest  # a bool is no size


def _outline(path: str, content: Json) -> tuple[Architecture, ScoreNet1D]:
    """Sizes that a checkpoint describes, and a network of them without numbers."""
    try:
        sde = SDES[content["sde"]["name"]](**content["sde"]["parameters"])
        sizes = content["network_kwargs"]
        if not all(_is_possible(name, size) for name, size in sizes.items()):
            raise InputError(f"{path}: describes an impossible network; train again")
        architecture = Architecture(**sizes)
        if not architecture.n_dim:
            raise InputError(f"{path}: describes a network of nothing; train again")
        with torch.device("meta"):
            outline = ScoreNet1D(sde, architecture)
        num_values = sum(math.prod(tensor.shape) for tensor in outline.state_dict().values())
        if 4 * num_values > os.path.getsize(path):
            raise InputError(f"{path}: describes a larger network than it holds; train again")
    except InputError:
        raise
    except Exception:  # wrong keys or types anywhere in a foreign description
        raise InputError(f"{path}: describes no network that this program knows") from None
    return architecture, outline


def _check_tensors(
    path: str, name: str, tensors: object, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """InputError unless tensors are finite, dense, float32, and of these names and shapes."""
    if not isinstance(tensors, dict) or set(tensors) != set(shapes):
        raise InputError(f"{path}: {name} does not fit the network; train again")
    for key, shape in shapes.items():
        tensor = tensors[key]
        if not isinstance(tensor, torch.Tensor) or tensor.shape != shape:
            raise InputError(f"{path}: {name} {key} has not the shape {tuple(shape)}; train again")
        if tensor.dtype != torch.float32 or tensor.layout != torch.strided:
            raise InputError(f"{path}: {name} {key} is not a dense float32 tensor; train again")
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name} {key} is not finite; train again")


def _read_record(path: str, content: Json) -> Record:
    try:
        return Record.from_json(content)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}; train again") from None


def _read_normalizer(path: str, content: Json, name: str, n: int) -> Normalizer:
    tensors = content.get(name)
    names = {"mean", "std"}
    if isinstance(tensors, dict):
        names |= tensors.keys() & {"asinh_scale", "skewness"}
    _check_tensors(path, name, tensors, dict.fromkeys(names, (n,)))
    normalizer = Normalizer(**content[name])
    if not (normalizer.std > 0).all():
        raise InputError(f"{path}: {name} std is not above 0; train again")
    if normalizer.asinh_scale is not None and not (normalizer.asinh_scale >= 0).all():
        raise InputError(f"{path}: {name} asinh_scale is below 0; train again")
    return normalizer


def _read_reach(path: str, content: Json) -> Reach | None:
    if "reach" not in content:
        return None
    try:
        reach = Reach.from_json(content["reach"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: reach is damaged; train again") from None
    if not all(0 < value < math.inf for value in reach.to_json().values()):
        raise InputError(f"{path}: reach is damaged; train again")
    return reach


def _make_state_normalizer(
    path: str, spectrum: Normalizer, architecture: Architecture, data: Record
) -> StateNormalizer:
    if spectrum.asinh_scale is not None:
        raise InputError(f"{path}: normalizer has an asinh_scale, which spectra do not have")
    prior = data.prior
    if not architecture.joint:
        return StateNormalizer(spectrum)
    if len(prior.parameters) != architecture.n_param:
        raise InputError(f"{path}: does not say what its parameters are; train again")
    signal = prior.signal_template if architecture.n_ell else None
    if signal is not None and signal.dl_per_r.shape[1] != architecture.n_ell:
        raise InputError(f"{path}: does not say how the signal depends on r; train again")
    return StateNormalizer(spectrum, prior.parameters, signal)

"""Sampling: the reverse process of a network, run in blocks of rows, and what becomes of its draws.

`ReverseProcess` integrates the rows of a block from noise to normalised data, `Sampler` turns them
into D_ell and r.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

import sde_utils
from diffusion import solvers
from diffusion.blocks import Blocks, batch_seed
from diffusion.given import NOTHING, Batch, Given, make_dynamics
from diffusion.importance import Correction, Weights
from diffusion.outputs import (
    GENERATED,
    POSTERIOR,
    RECIPE,
    WEIGHTS,
    Output,
    PosteriorDraws,
    generated_parameter,
    of_parameter,
)
from diffusion.solver_settings import SolverSettings
from runtime import devices, tables
from runtime.errors import DivergedError
from runtime.jsonfiles import Json
from runtime.priors import FloatArray
from runtime.workers import Workers
from sde_utils import SDE

if TYPE_CHECKING:
    import torch

    from diffusion.guidance import Guidance
    from diffusion.normalizers import Normalizer, StateNormalizer
    from model import Architecture, GaussianStart


@dataclasses.dataclass(frozen=True)
class Cost:
    """What an integration took.

    Attributes:
        evaluations: Of the network, for each row.
        seconds: Wall time.
    """

    evaluations: int
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Integrated:
    """Rows at time 0.

    Attributes:
        x: Normalised, float32, shape (n, n_dim).
        cost: What they took.
        trajectory: States of the row that was to be kept, shape (m, 1 + n_dim), the first column
            sigma/alpha; None without one.
    """

    x: torch.Tensor
    cost: Cost
    trajectory: FloatArray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ReverseProcess:
    """The reverse process of a network.

    Attributes:
        architecture: Sizes of the network.
        sde: The forward process.
        network: Callable as ScoreNet1D, on the device.
        gaussian: The Gaussian that it starts from, in whose frame solvers integrate.
        settings: Of the solver.
        device: Where rows are integrated.
        workers: Threads that share the batches of a block.
    """

    architecture: Architecture
    sde: SDE
    network: Callable[..., torch.Tensor]
    gaussian: GaussianStart
    settings: SolverSettings
    device: torch.device
    workers: Workers = dataclasses.field(default_factory=Workers)

    @property
    def t_start(self) -> torch.Tensor:
        """Largest time, float32 scalar on the device."""
        import torch

        return torch.tensor(self.settings.t_start, device=self.device)

    def block(
        self,
        blocks: Blocks,
        number: int,
        given: Given = NOTHING,
        keep: int | None = None,
        on_step: Callable[[], object] | None = None,
    ) -> Integrated:
        """Integrate one block.

        Args:
            blocks: How rows are cut.
            number: Which of them.
            given: What its rows start from and depend on.
            keep: Row of the block whose states are kept, or None.
            on_step: Called at the start and after each step of a batch, or None.

        Returns:
            x on the CPU, and the evaluations of the batch that took most.
        """
        import torch

        began = time.monotonic()

        def run(batch: tuple[int, slice]) -> Integrated:
            batch_number, rows = batch
            kept = None
            if keep is not None and rows.start <= keep < rows.stop:
                kept = keep - rows.start
            own = given.of(rows, blocks.owners(rows), self.device)
            work = Batch(batch_number, rows.stop - rows.start, own, kept)
            # both contexts belong to the thread
            with torch.no_grad(), devices.autocast(self.device, self.settings.precision):
                done = self._integrate(self.network, work, on_step)
            return dataclasses.replace(done, x=done.x.cpu())

        finished = self.workers.finished(run, blocks.batches(number))
        parts = [part for _, part in sorted(finished, key=lambda each: each[0][0])]
        evaluations = max(part.cost.evaluations for part in parts)
        trajectory = next((p.trajectory for p in parts if p.trajectory is not None), None)
        cost = Cost(evaluations, time.monotonic() - began)
        return Integrated(torch.cat([part.x for part in parts]), cost, trajectory)

    def log_density(
        self,
        blocks: Blocks,
        number: int,
        given: Given,
        x: torch.Tensor,
        on_step: Callable[[], object] | None = None,
    ) -> torch.Tensor:
        """log density of draws of a block under the flow, float64, shape (n,), on the CPU.

        Args:
            blocks: How rows are cut.
            number: Which of them.
            given: What its rows depend on.
            x: Normalised, shape (n, n_dim).
            on_step: Called at each evaluation of a batch, or None.
        """
        import torch

        from diffusion import likelihood

        def run(batch: tuple[int, slice]) -> torch.Tensor:
            own = given.of(batch[1], blocks.owners(batch[1]), self.device)
            dynamics = make_dynamics(self.sde, self.network, self.gaussian, own)
            dynamics = dynamics if on_step is None else dynamics.watched(on_step)
            with torch.no_grad():
                rows = x[batch[1]].to(self.device)
                return likelihood.log_likelihood(dynamics, rows, noised=False).cpu()

        finished = self.workers.finished(run, blocks.batches(number))
        return torch.cat([part for _, part in sorted(finished, key=lambda each: each[0][0])])

    def _integrate(
        self,
        network: Callable[..., torch.Tensor],
        batch: Batch,
        on_step: Callable[[], object] | None = None,
    ) -> Integrated:
        """Integrate a batch."""
        import torch

        began, given = time.monotonic(), batch.given
        x, t = given.start, sde_utils.cpu_time(self.settings.t_start)
        seed = batch_seed(self.settings.seed, batch.number)
        generator = torch.Generator(self.device).manual_seed(seed)
        dynamics = make_dynamics(self.sde, network, self.gaussian, given)
        dynamics = dataclasses.replace(dynamics, generator=generator, from_noise=x is None)
        if x is None:
            shape = (batch.size, self.architecture.n_dim)
            z = torch.empty(shape, device=self.device).normal_(generator=generator)
            x = dynamics.rows(z, t)
        times = sde_utils.reverse_times(self.sde, t, self.settings.num_steps)
        follow = None if on_step is None else lambda t, x: on_step()
        step = self.settings.make_step()
        run = solvers.integrate(step, dynamics, x, times, batch.keep, follow)
        cost = Cost(run.evaluations, time.monotonic() - began)
        return Integrated(run.x, cost, run.trajectory)

    def _gaussian(self, x: torch.Tensor, t: torch.Tensor, y: object = None) -> torch.Tensor:
        """Velocity of Gaussian data of unit variance: exact, and known at once."""
        return 0 * x

    def cost(self, rows: int, given: Given = NOTHING) -> Cost:
        """Evaluations of the velocity for a batch, and the seconds that one of them takes.

        The evaluations are counted on a row of a Gaussian, whose velocity is exact; one evaluation
        on a full batch is timed.

        Args:
            rows: Rows of a batch.
            given: Whose likelihood guides them, where one does.
        """
        import torch

        x, work = torch.zeros(rows, self.architecture.n_dim, device=self.device), Batch(0, 1)
        if self.architecture.conditional:
            y = torch.zeros(rows, self.architecture.n_cond, device=self.device)
            given, work = Given(y=y), Batch(0, 1, Given(y=y[:1]))
        elif given.observations is None:
            work = Batch(0, 1, Given(start=x[:1]))
        velocity_fn = make_dynamics(self.sde, self.network, self.gaussian, given).velocity_fn
        with torch.no_grad(), devices.autocast(self.device, self.settings.precision):
            evaluations = self._integrate(self._gaussian, work).cost.evaluations
            for _ in range(2):  # the first one warms up
                began = time.monotonic()
                float(velocity_fn(x, sde_utils.cpu_time(self.settings.t_start))[0, 0])
        return Cost(evaluations, time.monotonic() - began)

    def record(self) -> Json:
        """What it is, ready for JSON."""
        name = next(name for name, sde in sde_utils.SDES.items() if type(self.sde) is sde)
        return {
            "sde": {"name": name, **dataclasses.asdict(self.sde)},
            "t_start": float(self.t_start),
            "num_steps": self.settings.num_steps,
            "seed": self.settings.seed,
            "precision": self.settings.precision,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class DrawnBlock:
    """Draws of a block of observations.

    Attributes:
        draws: Of its observations.
        cost: What they took.
        trajectory: As of an `Integrated`.
    """

    draws: PosteriorDraws
    cost: Cost
    trajectory: FloatArray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """Draws any block of rows.

    A conditional network draws the posterior of each observation, and so does one of the prior
    that a likelihood guides. Any other starts at the normalised observation, as the published
    recipe does, or generates where there is none.

    Attributes:
        process: The reverse process.
        blocks: How rows are cut.
        normalizer: Of what is diffused.
        cond_normalizer: Of observations; None for an unconditional network.
        observed: D_ell, shape (n, n_cond), uK^2, perhaps on disk; None to generate.
        shown: Observation of whose first draw the states are kept; None for none.
        guidance: The likelihood of observations; None without one.
        correction: What weighs draws, which are then taken anew; None leaves them as they are.
    """

    process: ReverseProcess
    blocks: Blocks
    normalizer: StateNormalizer
    cond_normalizer: Normalizer | None = None
    observed: np.ndarray | None = None
    shown: int | None = None
    guidance: Guidance | None = None
    correction: Correction | None = None

    @property
    def draws_posteriors(self) -> bool:
        """Whether its draws are of posteriors, which start from the prior of the SDE."""
        return self.process.architecture.conditional or self.guidance is not None

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The arrays that its draws become."""
        if not self.draws_posteriors:
            generated = (generated_parameter(each.name) for each in self.normalizer.parameters)
            return (*GENERATED, *generated) if self.observed is None else RECIPE
        has_spectra, num_draws = self.process.architecture.n_ell > 0, self.blocks.num_draws
        spectra = [each for each in POSTERIOR if has_spectra and num_draws >= each.min_draws]
        parameters = [of_parameter(each.name) for each in self.normalizer.parameters]
        return (*spectra, *parameters, *(WEIGHTS if self.correction is not None else ()))

    def cost(self, rows: int) -> Cost:
        """As that of the process, with what a likelihood takes of a batch of so many rows."""
        import torch

        if self.guidance is None or self.observed is None:
            return self.process.cost(rows)
        began = time.monotonic()
        given = self._given(torch.tensor(self.observed[:1], dtype=torch.float64))
        seconds = (time.monotonic() - began) * rows / self.blocks.num_draws
        owners = torch.zeros(rows, dtype=torch.long)
        cost = self.process.cost(rows, given.of(slice(0), owners, self.process.device))
        return Cost(cost.evaluations, cost.seconds + seconds / cost.evaluations)

    def block(self, number: int, on_step: Callable[[], object] | None = None) -> DrawnBlock:
        """Draw a block.

        Args:
            number: Which of them.
            on_step: Called at the start and after each step of a batch, or None.

        Raises:
            DivergedError: If a spectrum is not finite.
        """
        import torch

        began, y = time.monotonic(), torch.empty(0)
        chosen, given = self.blocks.observations(number), NOTHING
        if self.observed is not None:
            y = torch.tensor(self.observed[chosen], dtype=torch.float64)
            given = self._given(y)
            tables.release(self.observed)
        keep = None
        if self.shown is not None and chosen.start <= self.shown < chosen.stop:
            keep = (self.shown - chosen.start) * self.blocks.num_draws
        run = self.process.block(self.blocks, number, given, keep, on_step)
        draws, cost = self._denormalize(run.x), run.cost
        if self.correction is not None:
            weights = self._weigh(number, given, run.x, y, on_step)
            draws = weights.resampled(draws, self.process.settings.seed, chosen.start)
            cost = dataclasses.replace(cost, seconds=time.monotonic() - began)
        return DrawnBlock(draws, cost, run.trajectory)

    def _weigh(
        self,
        number: int,
        given: Given,
        x: torch.Tensor,
        y: torch.Tensor,
        on_step: Callable[[], object] | None,
    ) -> Weights:
        """Weights of draws x of a block, normalised, of observations y, (n, n_ell), uK^2."""
        correction, m, process = self.correction, self.blocks.num_draws, self.process
        assert correction is not None
        log_q = process.log_density(self.blocks, number, given, x, on_step)
        if correction.log_signal is not None:
            log_prior = correction.log_prior(x)
        else:
            log_prior = process.log_density(self.blocks, number, NOTHING, x, on_step)
        log_p = log_prior + correction.log_likelihood(x, y.repeat_interleave(m, 0))
        return Weights.of((log_p - log_q).reshape(-1, m).numpy())

    def _given(self, y: torch.Tensor) -> Given:
        """What observations, float64 tensor (n, n_cond), uK^2, are to the rows of a block."""
        if self.cond_normalizer is not None:
            return Given(y=self.cond_normalizer.normalize(y))
        if self.guidance is not None:
            return Given(observations=self.guidance.given(y))
        return Given(start=self.normalizer.spectrum.normalize(y))

    def _denormalize(self, x: torch.Tensor) -> PosteriorDraws:
        """Draws of whole observations, from normalised rows."""
        import torch

        dl, theta = self.normalizer.denormalize(x)
        diverged = int((~torch.cat([dl, theta], 1).isfinite().all(1)).sum())
        if diverged:
            method, cause, advice = self.process.settings.method, "", ""
            if self.observed is not None and not self.draws_posteriors:
                cause, advice = "started too far from the prior, or ", "a smaller --t-start, "
            advice += "more --num-steps" + ("" if method == "sde" else " or --method sde")
            raise DivergedError(
                f"--method {method}: {diverged} of {len(dl)} draws diverged: the reverse process "
                f"{cause}took too few steps; try {advice}"
            )
        m, n_ell = self.blocks.num_draws, dl.shape[1]
        columns = zip(self.normalizer.parameters, theta.T, strict=True)
        parameters = {each.name: column.reshape(-1, m).numpy() for each, column in columns}
        return PosteriorDraws(dl.numpy().reshape(-1, m, n_ell) if n_ell else None, parameters)

    def draw_all(self) -> PosteriorDraws:
        """Draws of all observations, in memory."""
        return PosteriorDraws.joined([self.block(k).draws for k in range(len(self.blocks))])

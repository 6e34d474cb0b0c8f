"""The reverse process of a checkpoint, run in blocks of rows."""

import dataclasses
import functools
import time
from collections.abc import Callable

import numpy as np

import cli
import sde_utils
import solvers

BLOCK_ROWS = 1024  # rows that share a generator and fit the cache together


@dataclasses.dataclass
class Reverse:
    """The reverse process of a checkpoint, run in blocks of rows.

    The result depends on the seed, not on the machine's memory: blocks always have the same
    rows, and each has its own random stream.

    Attributes:
        checkpoint: From checkpoints.load, its network on the device.
        make_step: Callable that makes a new solver step, as those of solvers.SOLVERS.
        t_start: Largest time, scalar tensor on the device.
        num_steps: Steps of the solver.
        seed: Of all random draws.
        keep: Row whose states are kept, or None.
    """

    checkpoint: dict
    make_step: Callable
    t_start: object
    num_steps: int
    seed: int
    keep: int | None

    def __post_init__(self):
        self.evaluations, self.states, self.seconds = 0, [], 0.0

    def blocks(self, n, start=None, y=None, num_draws=1):
        """Integrate n rows.

        Args:
            n: Number of rows: num_draws for each observation.
            start: Rows to start from, float32 tensor (n, n_ell); None starts from the SDE's prior.
            y: Normalised observations, float32 tensor (n / num_draws, n_ell), or None.
            num_draws: Draws per observation.

        Yields:
            x at time 0 of the next rows, float32 tensor (m, n_ell) on the CPU; m is a multiple of
            num_draws.
        """
        import torch

        sde, network = self.checkpoint["sde"], self.checkpoint["network"]
        kwargs, device = self.checkpoint["network_kwargs"], self.t_start.device
        block_rows = num_draws * max(1, BLOCK_ROWS // num_draws)
        starts = range(0, n, block_rows)
        began = time.monotonic()
        with cli.progress(total=len(starts) * (self.num_steps + 2), unit="step") as bar:
            for block, first in enumerate(starts):
                rows = min(block_rows, n - first)
                block_seed = np.random.SeedSequence((self.seed, block)).generate_state(1, np.uint32)
                generator = torch.Generator(device).manual_seed(int(block_seed[0]))
                y_block = None
                if y is not None:
                    chosen = y[first // num_draws : (first + rows) // num_draws]
                    y_block = chosen.to(device).repeat_interleave(num_draws, 0)
                score_fn = solvers.CountedScore(sde_utils.make_score_fn(network, sde, y_block))
                on_step = functools.partial(self._on_step, bar, first)
                with torch.no_grad():
                    if start is None:
                        shape = (rows, kwargs["n_ell"] + kwargs["n_param"])
                        z = torch.empty(shape, device=device).normal_(generator=generator)
                        x = z * sde_utils.prior_std(sde, self.t_start)
                        if y is not None:
                            x = solvers.start_posterior(score_fn, sde, z, self.t_start)
                    else:
                        x = start[first : first + rows].to(device)
                    run = (sde, x, self.t_start, self.num_steps, generator, on_step)
                    x = solvers.integrate(self.make_step(), score_fn, *run)
                self.evaluations = score_fn.calls
                yield x.cpu()
        self.seconds = time.monotonic() - began

    def _on_step(self, bar, first, t, x):
        bar.update()
        if self.keep is not None and first <= self.keep < first + len(x):
            ratio = self.checkpoint["sde"].sigma(t) / self.checkpoint["sde"].alpha(t)
            self.states.append(np.append(float(ratio), x[self.keep - first].double().cpu().numpy()))

    def record(self):
        """How it went, ready for JSON."""
        sde = self.checkpoint["sde"]
        return {
            "sde": {"name": self.checkpoint["sde_name"], **dataclasses.asdict(sde)},
            "t_start": float(self.t_start),
            "num_steps": self.num_steps,
            "network_evaluations": self.evaluations,
            "seed": self.seed,
            "seconds": self.seconds,
        }

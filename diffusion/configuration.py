"""What a run of sample.py draws, and where."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Self

from diffusion import sample_flags
from diffusion.blocks import Blocks, default_batch_size
from diffusion.sampling import Sampler
from diffusion.solver_settings import SolverSettings
from runtime import cli, devices
from runtime.jsonfiles import Json
from runtime.records import Sampled
from runtime.tables import Table

if TYPE_CHECKING:
    import torch

    from diffusion.trained import Trained


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What a run draws, and where: flags with every default filled.

    Attributes:
        solver: Of the reverse process.
        blocks: How rows are cut.
        device: torch.device.
        out_dir: Folder of the outputs.
        shown: Row that figures show.
        plot_trajectories: Whether the states of that row are saved.
        model_checkpoint: File of the model.
        resume: Whether to go on with a stopped run.
        chains: Root of the chains that are written for the row that is shown, or None.
        n_ell: Multipoles of the model.
        likelihood: Digest of that which guides draws; None without one.
        correct: Whether draws are weighted.
    """

    solver: SolverSettings
    blocks: Blocks
    device: torch.device
    out_dir: str
    shown: int
    plot_trajectories: bool
    model_checkpoint: str
    resume: bool
    chains: str | None
    n_ell: int
    likelihood: str | None = None
    correct: bool = False

    @classmethod
    def from_arguments(
        cls, args: argparse.Namespace, trained: Trained, observed: Table | None
    ) -> Self:
        """The one reading of the flags, after they were checked."""
        device = devices.get_device(args.device)
        num_rows = args.num_samples or sample_flags.NUM_SAMPLES
        num_rows = num_rows if observed is None else len(observed.values)
        blocks = Blocks(
            num_rows,
            (args.num_draws or sample_flags.default_draws(num_rows))
            if trained.draws_posterior
            else 1,
            args.batch_size or default_batch_size(device, trained.architecture.n_dim),
        )
        names = ("out_dir", "plot_trajectories", "model_checkpoint", "resume", "chains", "correct")
        return cls(
            solver=sample_flags.read(args),
            blocks=blocks,
            device=device,
            shown=args.trajectory_index,
            n_ell=trained.architecture.n_ell,
            likelihood=None if trained.guidance is None else trained.guidance.digest(),
            **{name: getattr(args, name) for name in names},
        )

    def identity(self, observed: Table | None) -> Json:
        """All that the draws depend on, for --resume: {flag: value}.

        Threads do not change them; the place and kind of a device do so by no more than rounding.
        """
        from runtime.checkpoints import file_sha256

        flags = {
            "data_file_noisy": None if observed is None else observed.sha256,
            "model_checkpoint": file_sha256(self.model_checkpoint),
            **dataclasses.asdict(self.blocks),
            **dataclasses.asdict(self.solver),
            "plot_trajectories": self.plot_trajectories,
            "trajectory_index": self.shown,
            "device": self.device.type,
        }
        flags |= {} if self.likelihood is None else {"likelihood": self.likelihood}
        flags |= {"correct": True} if self.correct else {}
        return {f"--{name.replace('_', '-')}": value for name, value in flags.items()}

    def sampler(self, trained: Trained, observed: Table | None) -> Sampler:
        """What draws the rows, on the device; InputError where --correct does not know a law."""
        values = None if observed is None else observed.values
        shown = self.shown if self.plot_trajectories else None
        sampler = trained.to(self.device).sampler(self.solver, self.blocks, values, shown)
        if not self.correct or observed is None:
            return sampler
        from diffusion.corrected import correction

        return dataclasses.replace(sampler, correction=correction(trained, observed))


def sampled_from(args: argparse.Namespace, trained: Trained, observed: Table | None) -> Sampled:
    """What the sidecars say about where an output comes from."""
    method, sky = args.method, trained.known_sky
    if trained.guidance is not None and observed is not None:
        method = f"{method} with likelihood"  # which knows what lies on the signal
        sky = observed.record.sky.with_signal_of(trained.data.sky)
    return Sampled(
        method=method,
        model_checkpoint=args.model_checkpoint,
        prior=trained.data.prior,
        sky=sky,
        observation_file=None if observed is None else observed.path,
        observation_sha256=None if observed is None else observed.sha256,
        observation_columns=None if observed is None else observed.values.shape[1],
    )


def likelihood_identity(args: argparse.Namespace) -> Json:
    """All that log-likelihoods depend on: {flag: SHA-256 of its file}."""
    from runtime.checkpoints import file_sha256

    names = ("data_file_noisy", "data_file_gt", "param_file_gt", "model_checkpoint")
    given = {cli.flag(name): getattr(args, name) for name in names}
    return {"--log-likelihood": True} | {k: v and file_sha256(v) for k, v in given.items()}

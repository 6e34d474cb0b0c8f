"""Run the reverse process: draw the posterior of an observation, or run the published recipe.

A checkpoint that was trained with --cond-file is conditional: for each row of --data-file-noisy
--num-draws draws start from the SDE's prior and follow the score of p(spectrum | observation).
denoised.npy is their mean; posterior_draws.npy (num_obs, num_draws, n_ell), posterior_std.npy and
posterior_quantiles.npy (num_obs, 3, n_ell; 16, 50, 84 %) stand beside it, and r_draws.npy
(num_obs, num_draws) if it was trained with --param-file: NAME_draws.npy of any parameter NAME.

Any other checkpoint starts at the normalised observation, as the published recipe does, and
writes denoised.npy; without --data-file-noisy it generates spectra and writes generated.npy.

With --log-likelihood nothing is drawn: log_likelihood.npy (num_obs,) holds log p of each row of
--data-file-gt, in nats, of a density per uK^2 of each multipole (and per unit of r), and
log_likelihood_metrics.json their mean.

What an output is worth stands in metrics.json and in a few lines on stdout, among them the line
that a paper needs of each parameter. Reads the checkpoint of train.py and the test set of
data_generation.py. Writes into --out-dir the arrays, metrics.json, examples.png, and with
--plot-trajectories trajectory.npy (normalised states, first column sigma/alpha) and trajectory.png;
with --chains the draws of the parameters of one observation, for GetDist.

Examples:
  python sample.py --data-file-noisy data/dl_noisy_r0.001.npy \\
      --data-file-gt data/dl_gt_r0.001.npy --model-checkpoint model.pth --method sde
  python sample.py --data-file-noisy data/dl_noisy_r0-0.01.npy \\
      --data-file-gt data/dl_gt_r0-0.01.npy --model-checkpoint posterior.pth --method ode
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np

import sde_utils
from checks import output
from checks.law import sample_rows
from checks.output import Inputs, OutputReport
from diffusion import observations, sample_flags
from diffusion.blocks import Blocks, default_batch_size
from diffusion.jobs import Job, is_finished
from diffusion.outputs import TRAJECTORY, draws_file
from diffusion.sampling import Sampler
from diffusion.solver_settings import SolverSettings
from figures import corner, spectra, style
from runtime import (
    atomic,
    chains,
    cli,
    console,
    conventions,
    devices,
    drawing,
    journal,
    locks,
    processes,
    provenance,
    resources,
    run_folder,
)
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.priors import Prior
from runtime.records import Record, Sampled
from runtime.tables import Table

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from diffusion.trained import Trained


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    sample_flags.add_files(parser)
    conventions.add_arguments(parser)
    cli.add_sde_arguments(parser, sde_utils.SDES, "that of the checkpoint")
    sample_flags.add_reverse_process(parser)
    cli.add_run_arguments(parser).add_argument(
        "--resume",
        action="store_true",
        help="go on where a stopped run with the same flags left off, if there is one in --out-dir",
    )
    return parser


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
            (args.num_draws or sample_flags.default_draws(num_rows)) if trained.conditional else 1,
            args.batch_size or default_batch_size(device, trained.architecture.n_dim),
        )
        names = ("out_dir", "plot_trajectories", "model_checkpoint", "resume", "chains")
        return cls(
            solver=sample_flags.read(args),
            blocks=blocks,
            device=device,
            shown=args.trajectory_index,
            n_ell=trained.architecture.n_ell,
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
        return {f"--{name.replace('_', '-')}": value for name, value in flags.items()}

    def sampler(self, trained: Trained, observed: Table | None) -> Sampler:
        """What draws the rows, on the device."""
        values = None if observed is None else observed.values
        shown = self.shown if self.plot_trajectories else None
        return trained.to(self.device).sampler(self.solver, self.blocks, values, shown)


def sampled_from(args: argparse.Namespace, trained: Trained, observed: Table | None) -> Sampled:
    """What the sidecars say about where an output comes from."""
    return Sampled(
        method=args.method,
        model_checkpoint=args.model_checkpoint,
        prior=trained.data.prior,
        sky=trained.known_sky,
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


def write_log_likelihood(
    args: argparse.Namespace, trained: Trained, argv: list[str] | None
) -> None:
    """What --log-likelihood asks for: log_likelihood.npy and log_likelihood_metrics.json."""
    from checks.likelihood import exact_law, likelihood_report, lines
    from diffusion import likelihood_job

    if args.data_file_noisy and not trained.conditional:
        raise InputError(f"{args.data_file_noisy}: {args.model_checkpoint} is unconditional")
    given = observations.load(observations.Files.from_arguments(args), trained)
    observed, rows = given.observed, likelihood_job.gather(given, trained)
    identity = likelihood_identity(args)
    run = provenance.run_id(identity)
    made_by = provenance.collect(argv)
    record = Record(sampled=sampled_from(args, trained, observed), run=run, extra=made_by)
    device = devices.get_device(args.device)
    paths = [os.path.join(args.out_dir, name) for name in run_folder.LIKELIHOOD]
    run_folder.check_beside(args.out_dir, identity["--model-checkpoint"])
    atomic.claim_outputs(paths, atomic.npy_bytes((len(rows),)))
    threads = devices.set_threads(args.threads, device)
    likelihood_job.announce(trained.to(device), len(rows), args.out_dir, threads)
    law = None if trained.joint else exact_law(observed, given.truth, trained.data)
    result = likelihood_job.compute(trained, rows, law, threads)
    report = likelihood_report(result.model, result.exact)
    run_folder.remove(paths[1:], paths)
    likelihood_job.write(paths[0], result.model, record)
    atomic.write_json(paths[1], {"num_samples": len(rows), "run": run, **report})
    for line in lines(report, len(rows)):
        console.print_result(line)
    console.print_result(f"wrote {resources.format_files(paths)}")


def output_paths(config: Configuration, sampler: Sampler) -> dict[str, str]:
    """{file name: path} of all that a run writes beside sidecars."""
    names = [each.name for each in sampler.outputs]
    names += [TRAJECTORY] if config.plot_trajectories else []
    names += ["metrics.json", "examples.png"]
    names += ["trajectory.png"] if config.plot_trajectories else []
    paths = {name: os.path.join(config.out_dir, name) for name in names}
    return paths | ({} if config.chains is None else chains.files(config.chains))


def draw_examples(
    arrays: Mapping[str, np.ndarray],
    config: Configuration,
    inputs: Inputs,
    measured: OutputReport,
) -> Figure:
    """The row that is shown, its parameters where there is no spectrum, or generated spectra."""
    row, parameters = config.shown, inputs.trained_on.prior.parameters
    if not config.n_ell:
        return corner.corner(
            {
                each.name: corner.Marginal(
                    style.parameter_label(each.name),
                    arrays[draws_file(each.name)][row],
                    each.low,
                    each.high,
                )
                for each in parameters
            }
        )
    signal, ell = inputs.trained_on.prior.dl_signal, np.arange(2, 2 + config.n_ell)
    if inputs.observed is not None:
        truth = None if inputs.truth is None else inputs.truth.values[row]
        y = inputs.observed.values[row]
        example = spectra.Example(ell, y if len(y) == len(ell) else None, truth, signal)
        correlations = None
        if measured.truth is not None:
            known = measured.truth.correlation
            if known.denoised is not None and known.observation is not None:
                correlations = spectra.Correlations(known.denoised, known.observation, known.limit)
        return spectra.output_example(example, arrays, row, correlations)
    return spectra.generated_examples(ell, sample_rows(arrays["generated.npy"]), signal)


def load_arrays(paths: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays among the files of a run, on disk."""
    return {k: np.load(v, mmap_mode="r") for k, v in paths.items() if k.endswith(".npy")}


def write_report(
    report: Json, config: Configuration, inputs: Inputs, paths: dict[str, str]
) -> list[str]:
    """Measure the arrays that are in place; write what they are worth, and the figures.

    Args:
        report: What is known without them, for metrics.json.
        config: Of the run.
        inputs: What the arrays were made from.
        paths: {file name: path}.

    Returns:
        What they are worth, in lines.
    """
    arrays = load_arrays(paths)
    measured = output.measure(arrays, config.shown, inputs)
    atomic.write_json(paths["metrics.json"], report | measured.to_json())
    draw = functools.partial(draw_examples, arrays, config, inputs, measured)
    drawing.write_figure(paths["examples.png"], draw)
    ell = np.arange(2, 2 + config.n_ell)
    if TRAJECTORY in arrays:
        states = arrays[TRAJECTORY]
        values = states[:, 1 : 1 + config.n_ell]
        figure = functools.partial(spectra.trajectory, states[:, 0], values, ell)
        drawing.write_figure(paths["trajectory.png"], figure)
    write_chains(arrays, config, inputs.trained_on.prior)
    return output.lines(measured)


def write_chains(arrays: Mapping[str, np.ndarray], config: Configuration, prior: Prior) -> None:
    """Write the chains of the row that is shown, where they are asked for."""
    if config.chains is None:
        return
    row, num_rows = config.shown, config.blocks.num_samples
    drawn = [each for each in prior.parameters if draws_file(each.name) in arrays]
    draws = {each.name: arrays[draws_file(each.name)][row] for each in drawn}
    chains.write(config.chains, draws, drawn)
    if num_rows > 1:
        console.info(f"--chains: row {row} of {num_rows}; --trajectory-index names another")


def claim(config: Configuration, paths: Mapping[str, str], num_bytes: int) -> None:
    """Say which files of an earlier run are replaced, go and stay; refuse what has no room."""
    outdated = run_folder.outdated("sample.py", config.out_dir, paths)
    atomic.claim_outputs(paths.values(), num_bytes, outdated)
    if stay := chains.beside(config.out_dir, config.chains):
        console.info(f"chains of an earlier run stay, for you named them: {', '.join(stay)}")


@cli.script
def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    sample_flags.check(parser, args)

    import torch

    from diffusion.trained import Trained

    trained = Trained.load(args.model_checkpoint)
    sample_flags.check_model(parser, args, trained)
    if args.log_likelihood:
        write_log_likelihood(args, trained, argv)
        return
    given = observations.load(observations.Files.from_arguments(args), trained)
    observed, truth = given.observed, given.truth
    config = Configuration.from_arguments(args, trained, observed)
    threads = devices.set_threads(args.threads, config.device)
    sampler, blocks = config.sampler(trained, observed), config.blocks
    if config.shown >= blocks.num_samples:
        parser.error(f"--trajectory-index {config.shown}: there are {blocks.num_samples} rows")
    paths = output_paths(config, sampler)
    shapes = {each.name: each.shape(blocks, config.n_ell) for each in sampler.outputs}
    whole = (TRAJECTORY,) if config.plot_trajectories else ()
    arrays = journal.PartialArrays(config.out_dir, shapes, whole, processes.rank())
    compared = {"--data-file-gt": None if truth is None else truth.sha256}
    job = Job(sampler, arrays, config.identity(observed) | compared, threads)
    if config.resume and is_finished(config.out_dir, job.identity):
        console.info(f"{config.out_dir}: is finished; leave --resume out to sample anew")
        if config.chains is not None and processes.rank() == 0:
            atomic.claim_outputs(chains.files(config.chains).values())
            write_chains(load_arrays(paths), config, trained.data.prior)
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes.process_group(torch.device("cpu")))  # no tensors are shared
        if processes.rank() == 0:
            stack.enter_context(locks.hold(paths["metrics.json"]))
            claim(config, paths, arrays.missing_bytes())
        began = time.monotonic()
        share = job.run(config.resume)
        seconds = time.monotonic() - began
        if processes.rank() == 0:
            record = job.record()
            report = {"method": config.solver.method, "num_samples": blocks.num_samples, **record}
            report |= {run_folder.IDENTITY: job.identity, "run": provenance.run_id(job.identity)}
            sampled, extra = sampled_from(args, trained, observed), provenance.collect(argv)
            known = Record(sampled=sampled, run=report["run"], extra=extra | record)
            arrays.publish(
                {e.name: known.replace(quantity=e.quantity, unit=e.unit) for e in sampler.outputs},
                paths.values(),
            )
            inputs = Inputs(observed, truth, trained.data, trained.normalize_dl())
            lines = write_report(report, config, inputs, paths)
            arrays.remove()
            rows = share * blocks.num_samples * blocks.num_draws
            written = resources.format_files(filter(os.path.exists, paths.values()))
            lines += [f"wrote {written}; {rows / seconds:,.0f} rows a second"]
            console.print_result("\n".join(lines))


if __name__ == "__main__":
    main()

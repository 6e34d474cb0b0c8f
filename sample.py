"""Run the reverse process: draw the posterior of an observation, or run the published recipe.

A checkpoint that was trained with --cond-file is conditional: for each row of --data-file-noisy
--num-draws draws start from the SDE's prior and follow the score of p(spectrum | observation).
denoised.npy is their mean; posterior_draws.npy (num_obs, num_draws, n_ell), posterior_std.npy and
posterior_quantiles.npy (num_obs, 3, n_ell; 16, 50, 84 %) stand beside it, and r_draws.npy
(num_obs, num_draws) if it was trained with --param-file: NAME_draws.npy of any parameter NAME.

Any other checkpoint starts at the normalised observation, as the published recipe does, and
writes denoised.npy; without --data-file-noisy it generates spectra and writes generated.npy. With
--likelihood it draws the posterior of observations of any noise, and writes what a conditional
checkpoint does: what the noise is stands in the record of the observations or in --noise-file.

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
import functools
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

import sde_utils
from checks import output
from checks.estimates import known
from checks.law import sample_rows
from checks.output import Inputs, OutputReport
from diffusion import observations, sample_flags
from diffusion.configuration import Configuration, likelihood_identity, sampled_from
from diffusion.jobs import Job, is_finished
from diffusion.outputs import TRAJECTORY, draws_file, load_arrays
from diffusion.sampling import Sampler
from figures import corner, spectra
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
    tables,
)
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.priors import Prior
from runtime.records import Record, Sky
from runtime.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from checks.own_map import OwnObservation
    from diffusion.trained import Trained

OBSERVATION, MAP_FIGURE = "observation.npy", "map.png"  # of --maps


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    sample_flags.add_files(parser)
    conventions.add_arguments(parser, maps=True)
    cli.add_sde_arguments(parser, sde_utils.SDES, "that of the checkpoint")
    sample_flags.add_reverse_process(parser)
    cli.add_run_arguments(parser).add_argument(
        "--resume",
        action="store_true",
        help="go on where a stopped run with the same flags left off, if there is one in --out-dir",
    )
    return parser


def measure_maps(args: argparse.Namespace, trained: Trained) -> OwnObservation:
    """Measure the map of --maps as the model's own were; InputError where it is none of them."""
    from checks.map_gate import MapGate, MapReport
    from checks.own_map import OwnObservation
    from sky.decoupled import decoupled_spectrum
    from sky.own_maps import MapAnalysis
    from sky.projection import mollweide

    analysis = MapAnalysis.of(trained.data, args.model_checkpoint)
    paths = [args.maps] if args.split is None else [args.maps, args.split]
    maps = analysis.measure_all(paths, args.units, args.fields, args.seed)
    part, templates = analysis.part, analysis.templates()
    assert part.reduction is not None
    gate = MapGate.of(part.response, analysis.powers, *templates, part.reduction.noise)
    exact = gate.posterior(maps[0].v)
    null = gate.judge_null(maps[0].v, maps[1].v) if args.split else None
    report = MapReport.of(gate.judge(maps[0].v, exact), null)
    console.print_result("\n".join(report.lines()))
    if not report.in_model:
        if not args.accept_mismatch:
            raise InputError(
                f"{args.maps}: is {report.warning}; train on skies and noise like its own, or "
                "insist with --accept-mismatch"
            )
        console.info(f"{args.maps}: is {report.warning}; r may be far off")
    record = Record(
        quantity="observed BB",
        unit="uK^2",
        nside=trained.data.nside,
        sky=Sky(analysis=trained.data.sky.analysis),
        decoupled=decoupled_spectrum(analysis.estimator),
        extra={"understood": [line for own in maps for line in own.understood]},
    )
    values, survey = analysis.estimator.spectra(maps[0].v[None]), analysis.part.survey
    path = os.path.join(args.out_dir, OBSERVATION)
    return OwnObservation(
        observed=Table.of(path, values, record),
        report=report,
        r=exact,
        image=mollweide(survey.nside, survey.pixels, maps[0].values[: len(survey.pixels)]),
        f_sky=survey.f_sky,
        dl_noise=survey.dl_noise,
        dl_fiducial=analysis.analysis.dl_fiducial,
    )


def draw_map(arrays: Mapping[str, np.ndarray], own: OwnObservation, truth: Table | None) -> Figure:
    """The map of --maps, with what is known of it."""
    from figures import masked, own_map

    y, decoupled = own.observed.values[0], known(own.observed.record.decoupled)
    bandpowers = masked.Bandpowers(
        edges=np.array(decoupled.edges),
        dl=decoupled(y),
        errors=decoupled.errors,
        expected=decoupled.windows @ own.dl_fiducial,
    )
    quantiles = arrays.get("posterior_quantiles.npy")
    own_truth = None if truth is None else truth.values[0]
    spectrum = own_map.OwnSpectrum(
        bandpowers, None if quantiles is None else quantiles[0], own_truth
    )
    draws, r = arrays.get(draws_file("r")), None
    if draws is not None:
        grid, density = (None, None) if own.r is None else (own.r.r, own.r.density[0])
        r = own_map.OwnR(draws[0], grid, density, own.rule_of_thumb)
    return own_map.own_map(
        own.image, own.f_sky, spectrum, r, own.warning.get(run_folder.ACCEPTED, "")
    )


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


def output_paths(
    config: Configuration, sampler: Sampler, own: OwnObservation | None
) -> dict[str, str]:
    """{file name: path} of all that a run writes beside sidecars."""
    names = [each.name for each in sampler.outputs]
    names += [] if own is None else [OBSERVATION, MAP_FIGURE]
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
        return corner.of_draws(
            {each.name: arrays[draws_file(each.name)][row] for each in parameters},
            {each.name: (each.low, each.high) for each in parameters},
        )
    signal, ell = inputs.trained_on.prior.dl_signal, np.arange(2, 2 + config.n_ell)
    if inputs.observed is not None:
        truth = None if inputs.truth is None else inputs.truth.values[row]
        y = inputs.observed.values[row]
        example = spectra.Example(ell, y if len(y) == len(ell) else None, truth, signal)
        correlations = None
        if measured.truth is not None:
            found = measured.truth.correlation
            if found.denoised is not None and found.observation is not None:
                correlations = spectra.Correlations(found.denoised, found.observation, found.limit)
        return spectra.output_example(example, arrays, row, correlations)
    return spectra.generated_examples(ell, sample_rows(arrays["generated.npy"]), signal)


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
    warning = report.get(run_folder.ACCEPTED, "")
    write_chains(arrays, config, inputs.trained_on.prior, warning)
    return output.lines(measured, inputs)


def write_chains(
    arrays: Mapping[str, np.ndarray], config: Configuration, prior: Prior, warning: str = ""
) -> None:
    """Write the chains of the row that is shown, where they are asked for, with a warning."""
    if config.chains is None:
        return
    row, num_rows = config.shown, config.blocks.num_samples
    drawn = [each for each in prior.parameters if draws_file(each.name) in arrays]
    draws = {each.name: arrays[draws_file(each.name)][row] for each in drawn}
    chains.write(config.chains, draws, drawn, warning)
    if num_rows > 1:
        console.info(f"--chains: row {row} of {num_rows}; --trajectory-index names another")


def claim(
    config: Configuration, paths: Mapping[str, str], num_bytes: int, observed: Table | None
) -> None:
    """Say which files of an earlier run are replaced, go and stay; refuse what has no room."""
    outdated = run_folder.outdated("sample.py", config.out_dir, paths)
    run_folder.check_input(observed, outdated)
    atomic.claim_outputs(paths.values(), num_bytes, outdated)
    if stay := chains.beside(config.out_dir, config.chains):
        console.info(f"chains of an earlier run stay, for you named them: {', '.join(stay)}")


def finish(
    job: Job,
    config: Configuration,
    paths: dict[str, str],
    inputs: Inputs,
    own: OwnObservation | None,
    written_by: Record,
) -> None:
    """Put the outputs of a job in place, with their records, and say what they are worth.

    Args:
        job: All of whose blocks are finished.
        config: Of the run.
        paths: {file name: path}.
        inputs: What the draws were made from.
        own: The map that they are of, if they are of one.
        written_by: What sidecars say of where the draws come from.
    """
    record = job.record()
    report = {"method": config.solver.method, "num_samples": config.blocks.num_samples, **record}
    report |= {run_folder.IDENTITY: job.identity, "run": provenance.run_id(job.identity)}
    extra = written_by.extra | record | ({} if own is None else own.warning)
    described = written_by.replace(run=report["run"], extra=extra)
    job.arrays.publish(
        {e.name: described.replace(quantity=e.quantity, unit=e.unit) for e in job.sampler.outputs},
        paths.values(),
    )
    lines = []
    if own is not None:
        observed = own.observed
        entries = observed.record.extra | own.entries | extra
        measured = observed.record.replace(run=report["run"], extra=entries)
        tables.write_array(observed.path, observed.values, measured)
        report |= own.entries | own.warning
        lines = own.lines()
        draw = functools.partial(draw_map, load_arrays(paths), own, inputs.truth)
        drawing.write_figure(paths[MAP_FIGURE], draw)
    lines = write_report(report, config, inputs, paths) + lines
    job.arrays.remove()
    console.print_result("\n".join(lines))


@cli.script
def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    sample_flags.check(parser, args)

    import torch

    from diffusion import guided
    from diffusion.trained import Trained
    from sky.inputs import read_contaminants

    trained = Trained.load(args.model_checkpoint)
    sample_flags.check_model(parser, args, trained)
    if args.log_likelihood:
        write_log_likelihood(args, trained, argv)
        return
    own = None if args.maps is None else measure_maps(args, trained)
    files = observations.Files.from_arguments(args)
    given = observations.load(files, trained, None if own is None else own.observed)
    observed, truth = given.observed, given.truth
    if args.likelihood:
        trained = guided.from_arguments(args, trained, known(observed), read_contaminants)
    config = Configuration.from_arguments(args, trained, observed)
    threads = devices.set_threads(args.threads, config.device)
    sampler, blocks = config.sampler(trained, observed), config.blocks
    if config.shown >= blocks.num_samples:
        parser.error(f"--trajectory-index {config.shown}: there are {blocks.num_samples} rows")
    paths = output_paths(config, sampler, own)
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
            claim(config, paths, arrays.missing_bytes(), observed)
        began = time.monotonic()
        share = job.run(config.resume)
        seconds = time.monotonic() - began
        if processes.rank() == 0:
            inputs = Inputs(observed, truth, trained.data, trained.normalize_dl())
            sampled, made_by = sampled_from(args, trained, observed), provenance.collect(argv)
            finish(job, config, paths, inputs, own, Record(sampled=sampled, extra=made_by))
            rows = share * blocks.num_samples * blocks.num_draws
            written = resources.format_files(filter(os.path.exists, paths.values()))
            console.print_result(f"wrote {written}; {rows / seconds:,.0f} rows a second")


if __name__ == "__main__":
    main()

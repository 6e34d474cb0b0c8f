"""Simulate CMB B-mode power spectra: pairs of a primordial truth and its observation.

Each row is one full sky: realised D_ell in uK^2 at ell = 2 ... 2*nside-1. The truth is the
primordial (tensor) BB through the beam. The observation adds lensing and foregrounds, through the
same beam, and white noise: in one band, or in all bands of --instrument that --clean hilc sums to
one cleaned spectrum. Rows are drawn in harmonic space, exactly and without maps.

Reads:   nothing, or what describes a sky of your own: --cosmology {"tau": 0.06, "nt": 0},
         --fiducial (columns ell and D_ell of the primordial BB at r = 1, uK^2), --noise-file
         (columns ell and N_ell = C_ell of the noise, uK^2), and --instrument {"name": "mine",
         "bands": [{"freq_ghz": 40, "fwhm_arcmin": 70, "noise_uk_arcmin": 30}, ...]}. PySM3 presets
         (--foregrounds d1 s1) read their template maps. --mask, --hits and --noise-variance read
         HEALPix FITS files.
Writes:  for each r, into --out-dir, with a .json beside every array that records how it was made:
           dl_train_r{R}.npy        truth, training rows
           dl_train_noisy_r{R}.npy  observation of the same rows
           dl_gt_r{R}.npy           truth, test rows: skies that training has not seen
           dl_noisy_r{R}.npy        observation of the same test rows
         With --r-range 0 0.01 each row has an r of its own, R is 0-0.01, and r stands in
         r_train_r{R}.npy and r_gt_r{R}.npy, row for row. With --instrument, budget_r{R}.png
         shows what the observation is made of. With --mask the truth is still that of the full
         sky, and the observation, at ell = 2 ... 3*nside-1, that of the part which is seen; its
         .json holds the weights that make unbiased bandpowers of it. Then there are, too,
           modes_noisy_r{R}.npy     all that the test maps say of B modes, 1/uK
           masked_r{R}.png          how deeply the sky is seen, and the bandpowers of a test sky

Examples:
  python data_generation.py --r 0.001 --nside 16 --num-samples 10000 --out-dir data
  python data_generation.py --r-range 0 0.01 --instrument litebird --clean hilc --out-dir data
  python data_generation.py --r-range 0 0.01 --mask galactic:20 --noise-uk-arcmin 1 \\
      --foregrounds none --num-samples 400000 --num-test 2000 --out-dir data
"""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from figures import masked
from figures.spectra import budget
from runtime import (
    atomic,
    cli,
    console,
    devices,
    drawing,
    locks,
    processes,
    provenance,
    resources,
    run_folder,
)
from runtime.priors import Prior
from runtime.records import Record
from runtime.shared_arrays import SharedArrays
from runtime.workers import Workers
from sky import configuration, flags, foregrounds, memory, projection, simulation
from sky.configuration import Configuration
from sky.masked_simulator import MaskedSimulator
from sky.outputs import Paths, Shape, file_label, output_paths, records, shapes, write_rows

BUDGET_R = (0.001, 0.01)  # tensor spectra that stand in the budget
BUDGET_ELL = (2, 10, 31)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.make_parser(__doc__)
    flags.add_arguments(parser)
    cli.add_run_arguments(parser, device=False)
    return parser


def parse_arguments(argv: Sequence[str] | None) -> Configuration:
    """What the command line asks for, all defaults filled in."""
    parser = build_parser()
    return configuration.read_configuration(parser.parse_args(argv), parser.error)


def figure_path(config: Configuration, name: str, r: Sequence[float]) -> str:
    """Path of a figure of one r: "budget" or "masked"."""
    return os.path.join(config.out_dir, f"{name}_r{file_label(r)}.png")


def write_budget(path: str, simulator: simulation.Simulator, record: Record) -> None:
    """Print what an observation is made of, beside tensor spectra, and draw it.

    Args:
        path: Of the figure.
        simulator: Of the rows.
        record: Of the rows.
    """
    ell, parts = simulator.ell, record.contaminants
    passed = simulator.observation.transfer(simulator.model.nside)
    tensors = {r: simulator.model.primordial_bb(r, ell) * passed for r in BUDGET_R}
    foreground = (parts.dl_gaussian_foreground, parts.dl_fixed_foreground)
    left: dict[str, Any] = {
        "lensing": parts.dl_lensing,
        "foreground": sum(part for part in foreground if part is not None),
        "noise": parts.dl_noise,
    }
    if record.ilc is not None:
        left["ILC bias"] = record.ilc.dl_ilc_bias
        left["ILC bias, expected"] = record.ilc.dl_ilc_bias_expected
    drawing.write_figure(path, lambda: budget(ell, left, tensors))
    columns = [int(np.abs(ell - wanted).argmin()) for wanted in BUDGET_ELL]
    title = f"D_ell in uK^2, r = {format_r(record.prior)}"
    console.print_result(f"{title:<28}" + "".join(f"{f'ell = {ell[k]}':>12}" for k in columns))
    for label, dl in {**{f"tensor, r = {k:g}": v for k, v in tensors.items()}, **left}.items():
        console.print_result(f"  {label:<26}" + "".join(f"{dl[k]:12.2e}" for k in columns))


def write_masked_figure(
    path: str, paths: Mapping[str, str], simulator: MaskedSimulator, record: Record
) -> None:
    """Draw how deeply the sky is seen, and the first test sky with its bandpowers.

    Args:
        path: Of the figure.
        paths: {name of an output: file} of the test set.
        simulator: Of the rows.
        record: Of the rows.
    """
    rows = {name: np.load(file, mmap_mode="r")[:1] for name, file in paths.items()}
    survey, decoupled = simulator.analysis.masking.survey, simulator.decoupled
    r = rows.get("r", np.array([record.prior.r]))
    dl_signal = np.atleast_2d(simulation.signal_of(record.prior, r))[0]
    lensing, foreground = (
        simulation.given(getattr(record.contaminants, name))
        for name in ("dl_lensing", "dl_gaussian_foreground")
    )
    dl_total = dl_signal + lensing + foreground
    sky = masked.Sky(
        title=f"one test sky, $r = {r[0]:.3g}$",
        truth=rows["x"][0],
        dl_signal=dl_signal,
        dl_total=dl_total,
        parts="signal + lensing" + (" + foreground" if foreground.any() else ""),
    )
    bandpowers = masked.Bandpowers(
        edges=np.array(decoupled.edges),
        dl=decoupled(rows["y"])[0],
        errors=decoupled.errors,
        expected=decoupled.windows @ dl_total,
    )
    depth = projection.mollweide(survey.nside, survey.pixels, survey.depths)
    drawing.write_figure(path, lambda: masked.masked_sky(depth, survey.f_sky, sky, bandpowers))


def format_r(prior: Prior) -> str:
    """r, or the two ends of its range, for people."""
    return "-".join(f"{value:g}" for value in prior.r_range or (prior.r,))


@cli.script
def main(argv: list[str] | None = None) -> None:
    """Run the script with a list of arguments; those of the process when None."""
    config = parse_arguments(argv)
    foregrounds.check_names(config.model.foregrounds)
    memory.check_room(config.model, config.observation, devices.num_threads(None))
    sets = {r: output_paths(config.out_dir, r, config.masked) for r in config.r}
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes.process_group())
        if processes.rank() == 0:
            first = [splits["test"]["x"] for splits in sets.values()]
            stack.enter_context(locks.hold(*first))
            claim(config, sets)
        stack.enter_context(threadpool_limits(1, "blas"))  # the bytes of any number of threads
        simulate(config, argv)


def outdated(out_dir: str, r: Sequence[float], paths: Iterable[str]) -> list[str]:
    """Outputs for r of an earlier run, which a run that writes these paths does not replace."""
    names = map(os.path.basename, paths)
    return run_folder.outdated("data_generation.py", out_dir, names, file_label(r))


def arrays_of(config: Configuration, splits: Paths) -> SharedArrays:
    """The arrays of one r, of all splits."""
    found: dict[str, Shape] = {}
    for split, paths in splits.items():
        shape_of = shapes(paths, config.num_rows[split], config.model.nside, config.masked)
        found |= {os.path.basename(path): shape_of[name] for name, path in paths.items()}
    return SharedArrays(config.out_dir, found)


def figures_of(config: Configuration, r: Sequence[float]) -> list[str]:
    """Paths of the figures of one r."""
    names = ["budget"] * config.has_budget + ["masked"] * config.masked
    return [figure_path(config, name, r) for name in names]


def claim(config: Configuration, sets: Mapping[tuple[float, ...], Paths]) -> None:
    """Say what is going to be done, replaced and removed; refuse what has no room."""
    written: list[str] = []
    going: list[str] = []
    disk_bytes = 0
    for r, splits in sets.items():
        own = [path for paths in splits.values() for path in paths.values()]
        own += figures_of(config, r)
        written, going = [*written, *own], [*going, *outdated(config.out_dir, r, own)]
        disk_bytes += arrays_of(config, splits).missing_bytes()
    atomic.claim_outputs(written, disk_bytes, going)
    total, model = len(config.r) * sum(config.num_rows.values()), config.model
    work = f"{total:,} pairs at ell = 2-{config.observation.multipoles(model.nside)[-1]}"
    bound = memory.peak_memory(model, config.observation, devices.num_threads(None))
    resources.announce(work, bound, disk_bytes, config.out_dir)


def write_set(
    config: Configuration,
    r: Sequence[float],
    simulator: simulation.Simulator,
    record: Record,
    on_rows: Callable[[int], Any],
) -> None:
    """Draw the rows of one r, each process its share, and put the files in place.

    Args:
        config: What is asked for.
        r: One value, or the two ends of a range.
        simulator: Of the rows.
        record: Of the rows, whatever their split.
        on_rows: Called with the number of rows after each chunk.
    """
    splits = output_paths(config.out_dir, r, config.masked)
    arrays, workers = arrays_of(config, splits), Workers(devices.num_threads(None))
    is_first = processes.rank() == 0
    try:
        if is_first:
            arrays.create()
        processes.barrier()
        with arrays:
            for split, paths in splits.items():
                rows = simulation.RowSet(
                    simulator, record.prior, config.seed, split, config.num_rows[split]
                )
                write_rows(rows, paths, arrays, workers, on_rows)
        processes.barrier()
        if is_first:
            arrays.publish(records(splits, record, config.model.nside, config.masked))
            written = [path for paths in splits.values() for path in paths.values()]
            run_folder.remove(outdated(config.out_dir, r, written))
    finally:
        if is_first:
            arrays.remove()


def write_figures(
    config: Configuration, r: Sequence[float], simulator: simulation.Simulator, record: Record
) -> None:
    """Draw the figures of one r, whose files are in place."""
    if config.has_budget:
        write_budget(figure_path(config, "budget", r), simulator, record)
    if isinstance(simulator, MaskedSimulator):
        test = output_paths(config.out_dir, r, masked=True)["test"]
        write_masked_figure(figure_path(config, "masked", r), test, simulator, record)


def simulate(config: Configuration, argv: list[str] | None) -> None:
    """Draw all rows and write them: those of each r when all of them are drawn."""
    simulator = simulation.make_simulator(config.model, config.observation, config.out_dir)
    priors = {r: simulation.make_prior(r, simulator) for r in config.r}
    made_by = provenance.collect(argv)
    described = {}
    for r, prior in priors.items():
        record = simulation.describe(simulator, prior, config.seed)
        run = provenance.run_id(config.identity(r))
        described[r] = record.replace(run=run, extra={**record.extra, **made_by})
    total = len(config.r) * sum(
        simulation.share(n, simulator.block_rows) for n in config.num_rows.values()
    )
    with console.progress(total=total, desc="drawing", unit="pair") as bar:
        for r in priors:
            write_set(config, r, simulator, described[r], bar.update)
    if processes.rank() != 0:
        return
    for r in config.r:
        write_figures(config, r, simulator, described[r])
    console.print_result(
        f"wrote {config.num_train} training and {config.num_test} test pairs at "
        f"ell = 2-{simulator.ell[-1]} for r = {', '.join(map(format_r, priors.values()))} into "
        f"{config.out_dir.rstrip('/')}/"
    )


if __name__ == "__main__":
    main()

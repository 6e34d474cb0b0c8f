"""Simulate CMB B-mode power spectra: pairs of a primordial truth and its observation.

Each row is one full sky: realised D_ell in uK^2 at ell = 2 ... 2*nside-1. The truth is the
primordial (tensor) BB through the beam. The observation adds lensing and foregrounds, through the
same beam, and white noise: in one band, or in all bands of --instrument that --clean hilc sums to
one cleaned spectrum. Rows are drawn in harmonic space, exactly and without maps.

Reads:   nothing, or what describes a sky of your own: --cosmology {"tau": 0.06, "nt": 0},
         --fiducial (columns ell and D_ell of the primordial BB at r = 1, uK^2), --noise-file
         (columns ell and N_ell = C_ell of the noise, uK^2), and --instrument {"name": "mine",
         "bands": [{"freq_ghz": 40, "fwhm_arcmin": 70, "noise_uk_arcmin": 30}, ...]}. PySM3 presets
         (--foregrounds d1 s1) read their template maps.
Writes:  for each r, into --out-dir, with a .json beside every array that records how it was made:
           dl_train_r{R}.npy        truth, training rows
           dl_train_noisy_r{R}.npy  observation of the same rows
           dl_gt_r{R}.npy           truth, test rows: skies that training has not seen
           dl_noisy_r{R}.npy        observation of the same test rows
         With --r-range 0 0.01 each row has an r of its own, R is 0-0.01, and r stands in
         r_train_r{R}.npy and r_gt_r{R}.npy, row for row. With --instrument, budget_r{R}.png
         shows what the observation is made of.

Examples:
  python data_generation.py --r 0.001 --nside 16 --num-samples 10000 --out-dir data
  python data_generation.py --r-range 0 0.01 --instrument litebird --clean hilc --out-dir data
"""

import argparse
import contextlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from figures.spectra import budget
from runtime import (
    atomic,
    cli,
    console,
    drawing,
    locks,
    provenance,
    resources,
    run_folder,
)
from runtime.priors import Prior
from runtime.records import Record
from sky import flags, foregrounds, instruments, memory, simulation
from sky.outputs import Paths, file_label, output_paths, size_on_disk, write_rows

BUDGET_R = (0.001, 0.01)  # tensor spectra that stand in the budget
BUDGET_ELL = (2, 10, 31)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.make_parser(__doc__)
    flags.add_arguments(parser)
    cli.add_run_arguments(parser, device=False)
    return parser


def parse_arguments(argv: Sequence[str] | None) -> flags.Configuration:
    """What the command line asks for, all defaults filled in; see `flags.read_configuration`."""
    parser = build_parser()
    return flags.read_configuration(parser.parse_args(argv), parser.error)


def budget_path(out_dir: str, r: Sequence[float]) -> str:
    """Path of the figure that shows what the observations of r are made of."""
    return os.path.join(out_dir, f"budget_r{file_label(r)}.png")


def write_budget(path: str, simulator: simulation.Simulator, record: Record) -> None:
    """Print what an observation is made of, beside tensor spectra, and draw it.

    Args:
        path: Of the figure.
        simulator: Of the rows.
        record: Of the rows.
    """
    ell, parts = simulator.ell, record.contaminants
    beam = instruments.beam_power(simulator.observation.fwhm_arcmin, ell)
    tensors = {value: simulator.model.primordial_bb(value) * beam for value in BUDGET_R}
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


def format_r(prior: Prior) -> str:
    """r, or the two ends of its range, for people."""
    return "-".join(f"{value:g}" for value in prior.r_range or (prior.r,))


@cli.script
def main(argv: list[str] | None = None) -> None:
    """Run the script with a list of arguments; those of the process when None."""
    config = parse_arguments(argv)
    paths = {r: output_paths(config.out_dir, r) for r in config.r}
    with locks.hold(*(splits["test"]["x"] for splits in paths.values())):
        simulate(config, paths, argv)


def outdated(out_dir: str, r: Sequence[float], paths: Iterable[str]) -> list[str]:
    """Outputs for r of an earlier run, which a run that writes these paths does not replace."""
    names = map(os.path.basename, paths)
    return run_folder.outdated("data_generation.py", out_dir, names, file_label(r))


def simulate(
    config: flags.Configuration, paths: Mapping[tuple[float, ...], Paths], argv: list[str] | None
) -> None:
    """Draw all rows and write them: those of each r when all of them are drawn."""
    model, observation = config.model, config.observation
    foregrounds.check_names(model.foregrounds)
    figures = {r: budget_path(config.out_dir, r) for r in config.r if config.has_budget}
    arrays = {r: [path for n in paths[r].values() for path in n.values()] for r in config.r}
    disk_bytes = sum(
        size_on_disk(splits, config.num_rows, model.nside) for splits in paths.values()
    )
    written = [*itertools.chain(*arrays.values()), *figures.values()]
    going = [path for r in config.r for path in outdated(config.out_dir, r, written)]
    atomic.claim_outputs(written, disk_bytes, going)
    total = len(config.r) * sum(config.num_rows.values())
    work = f"{total:,} pairs at ell = 2-{2 * model.nside - 1}"
    resources.announce(work, memory.peak_memory(model, observation), disk_bytes, config.out_dir)

    simulator = simulation.make_simulator(model, observation)
    ell = simulator.ell
    priors = {r: simulation.make_prior(r, simulator) for r in config.r}
    made_by = provenance.collect(argv)
    described = {}
    for r, prior in priors.items():
        record = simulation.describe(simulator, prior, config.seed)
        run = provenance.run_id(config.identity(r))
        described[r] = record.replace(run=run, extra={**record.extra, **made_by})

    with console.progress(total=total, desc="drawing", unit="pair") as bar:
        for r, prior in priors.items():
            with contextlib.ExitStack() as stack:
                for split, num_rows in config.num_rows.items():
                    generators = simulation.make_generators(prior, config.seed, split)
                    chunks = simulation.draw_chunks(simulator, prior, num_rows, generators)
                    record = described[r].replace(split=split)
                    shape = (num_rows, len(ell))
                    write_rows(stack, paths[r][split], chunks, shape, record, bar.update)
                run_folder.remove(outdated(config.out_dir, r, arrays[r]))
    for r, path in figures.items():
        write_budget(path, simulator, described[r])
    console.print_result(
        f"wrote {config.num_train} training and {config.num_test} test pairs at ell = 2-{ell[-1]} "
        f"for r = {', '.join(map(format_r, priors.values()))} into {config.out_dir.rstrip('/')}/"
    )


if __name__ == "__main__":
    main()

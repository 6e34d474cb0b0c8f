"""Simulate CMB B-mode power spectra: pairs of a primordial truth and its observation.

Each row is one full sky: realised D_ell in uK^2 at ell = 2 ... 2*nside-1. The truth is the
primordial (tensor) BB through the beam. The observation adds lensing and foregrounds, through the
same beam, and white noise: in one band, or in all bands of --instrument that --clean hilc sums to
one cleaned spectrum. Rows are drawn in harmonic space, exactly and without maps.

Reads:   nothing; PySM3 presets (--foregrounds d1 s1) read their template maps, --instrument may
         name a file {"name": "mine", "bands": [{"freq_ghz": 40, "fwhm_arcmin": 70,
         "noise_uk_arcmin": 30}, ...]}.
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
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from figures.spectra import budget
from runtime import (
    atomic,
    cli,
    console,
    drawing,
    jsonfiles,
    locks,
    provenance,
    resources,
    run_folder,
)
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.priors import Prior
from runtime.records import Record
from sky import cosmology, foregrounds, instruments, simulation
from sky.instruments import Band
from sky.observation import SINGLE_BAND, Hilc, Observation, SkyModel
from sky.outputs import Paths, file_label, output_paths, size_on_disk, write_rows

BUDGET_R = (0.001, 0.01)  # tensor spectra that stand in the budget
BUDGET_ELL = (2, 10, 31)

# --- command line ----------------------------------------------------------------------------


def argument(flag: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """A row of `ARGUMENTS`: what `add_argument` takes."""
    return flag, options


ARGUMENTS = {
    "data": (
        argument(
            "--r",
            type=cli.non_negative_float,
            nargs="+",
            help="tensor-to-scalar ratios at 0.05/Mpc, one set of files each; 0 is the null test "
            "(default: 0.001)",
        ),
        argument(
            "--r-range",
            type=cli.non_negative_float,
            nargs=2,
            metavar=("MIN", "MAX"),
            help="instead of --r: each row has an r of its own, drawn uniformly from this range",
        ),
        argument(
            "--nside", type=cli.nside, default=16, help="HEALPix NSIDE: ell = 2 ... 2*nside-1"
        ),
        argument(
            "--num-samples",
            type=cli.positive_int,
            default=10000,
            help="rows of the training set",
        ),
        argument(
            "--num-test",
            type=cli.positive_int,
            help="rows of the test set (default: --num-samples)",
        ),
        argument(
            "--out-dir",
            type=cli.folder_argument,
            default="data",
            help="folder of the output, made if missing",
        ),
    ),
    "sky": (
        argument(
            "--a-lens",
            type=cli.non_negative_float,
            default=1.0,
            help="share of the lensing power that delensing left: 1 all, 0 none",
        ),
        argument(
            "--foregrounds",
            nargs="+",
            default=["gaussian"],
            metavar="NAME",
            help="gaussian (dust and synchrotron power laws, a new realisation for each row), "
            "gaussian-ensemble (their parameters are new for each row, too), none, or PySM3 "
            "presets such as d1 s1 (one fixed sky)",
        ),
        argument(
            "--foreground-scale",
            type=cli.non_negative_float,
            help="share of the foreground amplitude that a cleaning outside of this script left; "
            "power has its square (default: 1)",
        ),
    ),
    "one band (default: ECHO's at 45 GHz)": (
        argument(
            "--fwhm-arcmin",
            type=cli.non_negative_float,
            help="beam width, arcmin; with --clean hilc that to which all bands are brought "
            f"(default: {SINGLE_BAND.fwhm_arcmin:g})",
        ),
        argument(
            "--freq-ghz",
            type=cli.positive_float,
            help=f"observing frequency, GHz (default: {SINGLE_BAND.freq_ghz:g}); with --instrument "
            "and without cleaning it names the band",
        ),
        argument(
            "--noise-uk-arcmin",
            type=cli.non_negative_float,
            help="white noise in polarisation, uK-arcmin; the beam does not act on it "
            f"(default: {SINGLE_BAND.noise_uk_arcmin:g})",
        ),
    ),
    "an instrument": (
        argument(
            "--instrument",
            metavar="NAME",
            help=f"{', '.join(instruments.INSTRUMENTS)}, or a .json file with a table of bands",
        ),
        argument(
            "--bands",
            type=cli.positive_float,
            nargs="+",
            metavar="GHZ",
            help="use only the bands at these frequencies (default: all)",
        ),
        argument(
            "--clean",
            choices=("none", "hilc"),
            default="none",
            help="hilc: the internal linear combination of all bands in harmonic space",
        ),
        argument(
            "--ilc-bins",
            type=cli.positive_int,
            nargs="+",
            metavar="ELL",
            help="edges of the multipole bins that have weights of their own, from 2 to 2*nside "
            "(default: 2 5 9 15 22 32 at nside 16, in proportion elsewhere)",
        ),
        argument(
            "--ilc-weights",
            choices=("sky", "model"),
            help="from the covariance of each sky's own modes, as for real data, or from that of "
            "the ensemble, for which the exact posterior is known (default: sky)",
        ),
    ),
}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.make_parser(__doc__)
    for title, arguments in ARGUMENTS.items():
        group = parser.add_argument_group(title)
        for flag, options in arguments:
            group.add_argument(flag, **options)
    cli.add_run_arguments(parser, device=False)
    return parser


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What the command line asks for, all defaults filled in.

    Attributes:
        r: Of each set of files: one r, or the two ends of a range.
        num_train: Rows of the training set.
        num_test: Rows of the test set.
        out_dir: Folder of the output.
        seed: Of every random draw.
        model: Of the sky.
        band: The one band; of an instrument, only its frequency counts.
        instrument: Name or file of an instrument; None for one band.
        freqs_ghz: The bands of the instrument that a cleaning sums; all when None.
        cleaning: None for one band.
    """

    r: tuple[tuple[float, ...], ...]
    num_train: int
    num_test: int
    out_dir: str
    seed: int
    model: SkyModel
    band: Band
    instrument: str | None
    freqs_ghz: tuple[float, ...] | None
    cleaning: Hilc | None

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {"train": self.num_train, "test": self.num_test}

    def identity(self, r: Sequence[float], observation: Observation) -> Json:
        """All that the rows of one r depend on.

        Args:
            r: One of `self.r`.
            observation: What the instrument, perhaps a file, stands for.
        """
        content: Json = jsonfiles.to_json(self)
        content |= {"r": list(r), "observation": jsonfiles.to_json(observation)}
        return {name: value for name, value in content.items() if name not in ("out_dir", "band")}


def parse_arguments(argv: Sequence[str] | None) -> Configuration:
    """Configuration, with the rules that hold across arguments."""
    parser = build_parser()
    args = parser.parse_args(argv)
    r = read_r(args, parser.error)
    if len(set(r)) < len(r):
        parser.error("--r: a value stands there twice")
    model = read_model(args, parser.error)
    check_instrument(args, parser.error)
    names = [field.name for field in dataclasses.fields(Band)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    band = dataclasses.replace(SINGLE_BAND, **given)
    low, high = instruments.FREQ_RANGE_GHZ
    if not low <= band.freq_ghz <= high:
        parser.error(f"--freq-ghz: the emission laws hold from {low} to {high} GHz")
    return Configuration(
        r=r,
        num_train=args.num_samples,
        num_test=args.num_test or args.num_samples,
        out_dir=args.out_dir,
        seed=args.seed,
        model=model,
        band=band,
        instrument=args.instrument,
        freqs_ghz=None if args.bands is None else tuple(args.bands),
        cleaning=read_cleaning(args, band.fwhm_arcmin, parser.error),
    )


def read_r(
    args: argparse.Namespace, error: Callable[[str], NoReturn]
) -> tuple[tuple[float, ...], ...]:
    """The r of each set of files, or its range."""
    if args.r and args.r_range:
        error("--r and --r-range: give one of the two")
    # adding 0.0 makes 0 of -0
    if not args.r_range:
        return tuple((r + 0.0,) for r in args.r or [0.001])
    if args.r_range[0] >= args.r_range[1]:
        error("--r-range: the first value must be below the second")
    return (tuple(r + 0.0 for r in args.r_range),)


def read_model(args: argparse.Namespace, error: Callable[[str], NoReturn]) -> SkyModel:
    """The sky."""
    scale = 1.0 if args.foreground_scale is None else args.foreground_scale
    try:
        return SkyModel(args.nside, args.a_lens, tuple(args.foregrounds), scale)
    except InputError as wrong:
        error(str(wrong))


def check_instrument(args: argparse.Namespace, error: Callable[[str], NoReturn]) -> None:
    """Rules between the flags of one band, of an instrument and of a cleaning."""

    def refuse(names: Iterable[str], why: str) -> None:
        for name in names:
            if getattr(args, name) is not None:
                error(f"--{name.replace('_', '-')}: {why}")

    if args.clean == "hilc":
        if args.instrument is None:
            error("--clean hilc: sums the bands of an --instrument; name one")
        refuse(["freq_ghz"], "--clean hilc sums bands; choose them with --bands")
        refuse(["foreground_scale"], "stands for a cleaning, which --clean hilc does; give one")
    else:
        refuse(["bands", "ilc_bins", "ilc_weights"], "is for --clean hilc")
    if args.instrument is not None:
        refuse(["noise_uk_arcmin"], "an --instrument has its own; give one of the two")
        if args.clean == "none":
            refuse(["fwhm_arcmin"], "an --instrument has its own; give one of the two")
            if args.freq_ghz is None:
                error("--instrument: name one band with --freq-ghz, or use --clean hilc")


def read_cleaning(
    args: argparse.Namespace, fwhm_arcmin: float, error: Callable[[str], NoReturn]
) -> Hilc | None:
    """The cleaning; None for one band."""
    if args.clean == "none":
        return None
    hilc = Hilc(fwhm_arcmin, args.ilc_bins and tuple(args.ilc_bins), args.ilc_weights or "sky")
    try:
        hilc.edges(args.nside)
    except InputError as wrong:
        error(str(wrong))
    return hilc


def choose_bands(config: Configuration) -> Observation:
    """Bands, their instrument and their cleaning; InputError where an instrument lacks a band."""
    if config.instrument is None:
        return Observation((config.band,))
    if config.cleaning is not None:
        return Observation.with_instrument(config.instrument, config.cleaning, config.freqs_ghz)
    bands = instruments.load_instrument(config.instrument).bands
    return Observation(instruments.pick_bands(bands, [config.band.freq_ghz], "--freq-ghz"))


# --- outputs ---------------------------------------------------------------------------------


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
    tensors = {value: cosmology.tensor_bb(value, ell) * beam for value in BUDGET_R}
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
    config: Configuration, paths: Mapping[tuple[float, ...], Paths], argv: list[str] | None
) -> None:
    """Draw all rows and write them: those of each r when all of them are drawn."""
    model, observation = config.model, choose_bands(config)
    foregrounds.check_names(model.foregrounds)
    figures = {r: budget_path(config.out_dir, r) for r in config.r if config.instrument}
    arrays = {r: [path for n in paths[r].values() for path in n.values()] for r in config.r}
    disk_bytes = sum(
        size_on_disk(splits, config.num_rows, model.nside) for splits in paths.values()
    )
    written = [*itertools.chain(*arrays.values()), *figures.values()]
    going = [path for r in config.r for path in outdated(config.out_dir, r, written)]
    atomic.claim_outputs(written, disk_bytes, going)
    total = len(config.r) * sum(config.num_rows.values())
    work = f"{total:,} pairs at ell = 2-{2 * model.nside - 1}"
    resources.announce(work, simulation.peak_memory(model, observation), disk_bytes, config.out_dir)

    simulator = simulation.make_simulator(model, observation)
    ell = simulator.ell
    priors = {r: simulation.make_prior(r, ell, observation.fwhm_arcmin) for r in config.r}
    for prior in priors.values():
        simulation.check_finite(prior, simulator.contaminants)
    made_by = provenance.collect(argv)
    described = {}
    for r, prior in priors.items():
        record = simulation.describe(simulator, prior, config.seed)
        run = provenance.run_id(config.identity(r, observation))
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
        f"for r = {', '.join(map(format_r, priors.values()))} into {config.out_dir}/"
    )


if __name__ == "__main__":
    main()

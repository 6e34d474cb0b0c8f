"""Flags of data_generation.py, the rules between them, and the configuration they ask for."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from runtime import cli
from runtime.jsonfiles import Json, to_json
from sky import inputs, instruments
from sky.cosmology import CONSISTENCY_TILT, MAX_NSIDE, MAX_TEMPLATE_R, PARAMETERS, PLANCK_2018
from sky.observation import SINGLE_BAND, Hilc, Observation, SkyModel

Error = Callable[[str], NoReturn]


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
            help="instead of --r: each row has an r of its own, drawn uniformly from this range, "
            f"up to {MAX_TEMPLATE_R:g}, or any with --fiducial or an nt of your own in --cosmology",
        ),
        argument(
            "--nside",
            type=cli.nside,
            default=16,
            help=f"HEALPix NSIDE, 2 to {MAX_NSIDE}: ell = 2 ... 2*nside-1",
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
        argument(
            "--cosmology",
            metavar="FILE",
            help='.json such as {"tau": 0.06}, with any of CAMB\'s '
            f"{', '.join(PARAMETERS)}; what it leaves out is that of Planck 2018 "
            f"(arXiv:1807.06209, Table 2), and nt, the tensor tilt, is {CONSISTENCY_TILT}: CAMB's "
            "for single-field inflation",
        ),
        argument(
            "--fiducial",
            metavar="FILE",
            help="instead of CAMB's: primordial BB of r = 1, which r multiplies; text or .npy with "
            "the columns ell and D_ell in uK^2, without beam, at ell = 2 ... 2*nside-1 at least",
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
        argument(
            "--noise-file",
            metavar="FILE",
            help="instead of --noise-uk-arcmin: noise of any spectrum; text or .npy with the "
            "columns ell and N_ell, a C_ell (not D_ell) in uK^2, for ell = 2 ... 2*nside-1; "
            "the beam does not act on it, and it is not divided by one",
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
        observation: Its bands and their cleaning.
        has_budget: Whether an instrument is asked for, whose power budget is printed and drawn.
    """

    r: tuple[tuple[float, ...], ...]
    num_train: int
    num_test: int
    out_dir: str
    seed: int
    model: SkyModel
    observation: Observation
    has_budget: bool

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {"train": self.num_train, "test": self.num_test}

    def identity(self, r: Sequence[float]) -> Json:
        """All that the rows of one of `self.r` depend on."""
        content: Json = to_json(self) | {"r": list(r)}
        return {k: v for k, v in content.items() if k not in ("out_dir", "has_budget")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all of `ARGUMENTS`, in their groups."""
    for title, arguments in ARGUMENTS.items():
        group = parser.add_argument_group(title)
        for flag, options in arguments:
            group.add_argument(flag, **options)


def read_configuration(args: argparse.Namespace, error: Error) -> Configuration:
    """Configuration, with the rules that hold across arguments.

    Args:
        args: Parsed by `add_arguments`, with out_dir and seed.
        error: Of the parser.

    Raises:
        InputError: If a file or a name that an argument gives cannot be used.
    """
    r = read_r(args, error)
    check_instrument(args, error)
    model = read_model(args)
    for ends in r:
        if len(ends) == 2:
            model.check_r_range(*ends)
    return Configuration(
        r=r,
        num_train=args.num_samples,
        num_test=args.num_test or args.num_samples,
        out_dir=args.out_dir,
        seed=args.seed,
        model=model,
        observation=read_observation(args),
        has_budget=args.instrument is not None,
    )


def read_r(args: argparse.Namespace, error: Error) -> tuple[tuple[float, ...], ...]:
    """The r of each set of files, or its range."""
    if args.r and args.r_range:
        error("--r and --r-range: give one of the two")
    # adding 0.0 makes 0 of -0
    if not args.r_range:
        r = tuple((r + 0.0,) for r in args.r or [0.001])
        if len(set(r)) < len(r):
            error("--r: a value stands there twice")
        return r
    if args.r_range[0] >= args.r_range[1]:
        error("--r-range: the first value must be below the second")
    return (tuple(r + 0.0 for r in args.r_range),)


def read_model(args: argparse.Namespace) -> SkyModel:
    """The sky, with the files that shape it."""
    cosmology, fiducial = PLANCK_2018, None
    if args.cosmology is not None:
        cosmology = inputs.read_cosmology(args.cosmology)
    model = SkyModel(
        nside=args.nside,
        a_lens=args.a_lens,
        foregrounds=tuple(args.foregrounds),
        foreground_scale=1.0 if args.foreground_scale is None else args.foreground_scale,
        cosmology=cosmology,
    )
    if args.fiducial is not None:
        fiducial = inputs.read_fiducial(args.fiducial, args.nside)
    return dataclasses.replace(model, dl_fiducial=fiducial)


def check_instrument(args: argparse.Namespace, error: Error) -> None:
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
    if args.noise_file is not None:
        refuse(["noise_uk_arcmin"], "--noise-file gives the noise; give one of the two")
    if args.instrument is not None:
        has_own = "an --instrument has its own; give one of the two"
        refuse(["noise_uk_arcmin", "noise_file"], has_own)
        if args.clean == "none":
            refuse(["fwhm_arcmin"], has_own)
            if args.freq_ghz is None:
                error("--instrument: name one band with --freq-ghz, or use --clean hilc")


def read_observation(args: argparse.Namespace) -> Observation:
    """Bands, their instrument and their cleaning."""
    if args.instrument is not None and args.clean == "none":
        bands = instruments.load_instrument(args.instrument).bands
        return Observation(instruments.pick_bands(bands, [args.freq_ghz], "--freq-ghz"))
    fwhm_arcmin = SINGLE_BAND.fwhm_arcmin if args.fwhm_arcmin is None else args.fwhm_arcmin
    if args.clean == "hilc":
        bins = args.ilc_bins and tuple(args.ilc_bins)
        hilc = Hilc(fwhm_arcmin, bins, args.ilc_weights or "sky")
        hilc.edges(args.nside)
        return Observation.with_instrument(args.instrument, hilc, args.bands)
    freq_ghz = SINGLE_BAND.freq_ghz if args.freq_ghz is None else args.freq_ghz
    nl_bb = None if args.noise_file is None else inputs.read_noise(args.noise_file, args.nside)
    return Observation.in_one_band(freq_ghz, fwhm_arcmin, args.noise_uk_arcmin, nl_bb)

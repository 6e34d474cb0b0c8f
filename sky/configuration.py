"""What the flags of data_generation.py ask for, and the rules between them."""

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from runtime.errors import InputError
from runtime.jsonfiles import Json, to_json
from sky import inputs, instruments
from sky.analysis import E_MODES, MAX_NSIDE, R_FIDUCIAL, Masking
from sky.cosmology import PLANCK_2018
from sky.masked import Survey
from sky.observation import SINGLE_BAND, Hilc, Observation, SkyModel

Error = Callable[[str], NoReturn]


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
    def masked(self) -> bool:
        """Whether a part of the sky is seen."""
        return self.observation.masking is not None

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {"train": self.num_train, "test": self.num_test}

    def identity(self, r: Sequence[float]) -> Json:
        """All that the rows of one of `self.r` depend on."""
        content: Json = to_json(self) | {"r": list(r)}
        return {k: v for k, v in content.items() if k not in ("out_dir", "has_budget")}


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
    check_mask(args, error)
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
        fiducial = inputs.read_fiducial(args.fiducial, args.nside, args.mask is not None)
    return dataclasses.replace(model, dl_fiducial=fiducial)


def refuser(args: argparse.Namespace, error: Error) -> Callable[[Iterable[str], str], None]:
    """What is called with names of arguments that must not be given, and why."""

    def refuse(names: Iterable[str], why: str) -> None:
        for name in names:
            if getattr(args, name) is not None:
                error(f"--{name.replace('_', '-')}: {why}")

    return refuse


def check_mask(args: argparse.Namespace, error: Error) -> None:
    """Rules between the flags of a part of the sky and all others."""
    refuse = refuser(args, error)
    if args.mask is None:
        refuse(["hits", "noise_variance", "e_modes", "r_fid"], "is for --mask")
        return
    if not args.mask.strip():
        error("--mask: the name is empty; give a file, or galactic:20")
    if args.nside > MAX_NSIDE:
        error(f"--nside {args.nside}: with --mask it is {MAX_NSIDE} at most")
    if args.clean != "none":
        error("--mask: goes with one band, not with --clean hilc")
    refuse(
        ["noise_file"],
        "is a spectrum of the full sky; with --mask give --noise-uk-arcmin, --hits or "
        "--noise-variance",
    )
    if args.noise_variance is not None:
        refuse(["noise_uk_arcmin", "hits", "instrument"], "--noise-variance gives the noise")
    if args.noise_uk_arcmin == 0:
        error("--noise-uk-arcmin 0: a map of part of the sky needs noise above 0")


def check_instrument(args: argparse.Namespace, error: Error) -> None:
    """Rules between the flags of one band, of an instrument and of a cleaning."""
    refuse = refuser(args, error)
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


def read_masking(args: argparse.Namespace, depth_uk_arcmin: float) -> Masking:
    """Part of the sky that is seen, to a depth where no file has it, and its analysis."""
    from sky import masks

    weights = masks.read_mask(args.mask, args.nside)
    if args.noise_variance is not None:
        survey = Survey.of_variances(
            masks.read_noise_variance(args.noise_variance, args.nside), weights
        )
    else:
        if args.hits is not None:
            weights = weights * masks.read_hits(args.hits, args.nside)
            if not weights.any():
                raise InputError(f"--hits {args.hits}: there are none where --mask sees the sky")
        survey = Survey.uniform(weights / weights.max(), depth_uk_arcmin)
    r_fiducial = R_FIDUCIAL if args.r_fid is None else args.r_fid
    return Masking(survey, os.path.basename(args.mask), args.e_modes or E_MODES[0], r_fiducial)


def read_observation(args: argparse.Namespace) -> Observation:
    """Bands, their instrument and their cleaning, and the part of the sky that is seen."""
    observation = read_bands(args)
    if args.mask is None:
        return observation
    (band,) = observation.bands
    masking = read_masking(args, band.noise_uk_arcmin or 0.0)
    depth = masking.survey.depth_uk_arcmin
    bands = (dataclasses.replace(band, noise_uk_arcmin=depth),)
    return dataclasses.replace(observation, bands=bands, masking=masking)


def read_bands(args: argparse.Namespace) -> Observation:
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

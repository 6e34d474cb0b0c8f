"""Flags of data_generation.py; `sky.configuration` has the rules between them."""

import argparse
from typing import Any

from runtime import cli
from sky import cosmology, instruments
from sky.analysis import E_MODES, R_FIDUCIAL
from sky.cosmology import CONSISTENCY_TILT, MAX_TEMPLATE_R, PARAMETERS
from sky.observation import SINGLE_BAND


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
            help=f"HEALPix NSIDE, 2 to {cosmology.MAX_NSIDE}: ell = 2 ... 2*nside-1",
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
            "the columns ell and D_ell in uK^2, without beam, at ell = 2 ... 2*nside-1 at least, "
            "with --mask 3*nside-1",
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
    "part of the sky, in one band": (
        argument(
            "--mask",
            metavar="MASK",
            help="what is seen: galactic:20 for |b| >= 20 degrees, or a HEALPix FITS file of any "
            "NSIDE, 0 (masked) to 1 (seen), where the noise variance goes with 1 over it; the "
            "observation is then the quadratic estimate of the spectrum up to ell = 3*nside-1",
        ),
        argument(
            "--hits",
            metavar="FILE",
            help="with --mask: HEALPix FITS file of hits of any scale; --noise-uk-arcmin is the "
            "depth of the best pixel, and variances go with 1 over hits",
        ),
        argument(
            "--noise-variance",
            metavar="FILE",
            help="with --mask, instead of --noise-uk-arcmin: HEALPix FITS file of --nside with the "
            "columns QQ, QU, UU, the noise covariance of each pixel in uK^2",
        ),
        argument(
            "--e-modes",
            choices=E_MODES,
            help="with --mask: free, E modes may have any amplitude (pure B); known, they have the "
            "power of the cosmology (default: free)",
        ),
        argument(
            "--r-fid",
            type=cli.non_negative_float,
            help="with --mask: r of the sky for which the spectrum is the best estimate (default: "
            f"{R_FIDUCIAL:g})",
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all of `ARGUMENTS`, in their groups."""
    for title, arguments in ARGUMENTS.items():
        group = parser.add_argument_group(title)
        for flag, options in arguments:
            group.add_argument(flag, **options)

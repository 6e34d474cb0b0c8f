"""Files of a user's own that shape a simulation: cosmology, noise spectrum, primordial template."""

import warnings

import numpy as np

from runtime import console, jsonfiles
from runtime.errors import InputError
from runtime.priors import FloatArray
from runtime.records import Contaminants
from sky import cosmology
from sky.cosmology import CONSISTENCY_TILT, PARAMETERS, PLANCK_2018, Cosmology, IntArray
from sky.masked import multipoles

LIKELY_DEPTH = 0.01, 1e4  # uK-arcmin at the highest ell; else the unit is in doubt
MAX_RISE = 2.0  # of the depth from lowest to highest ell; else a D_ell, or N_ell/B_ell^2
LIKELY_RATIO = 30.0  # of a template to that of Planck 2018, at one end at least


def read_cosmology(path: str) -> Cosmology:
    """Cosmology from a JSON object; what it does not name stays at Planck 2018.

    Args:
        path: A file such as {"tau": 0.06, "nt": 0.0}; the entry "cosmology" of a record, too.

    Raises:
        InputError: If it cannot be read, or has a key or value that CAMB is not given here.
    """
    content = jsonfiles.read_json(path)
    if content.get("nt") == CONSISTENCY_TILT:
        del content["nt"]
    for key, value in content.items():
        if key not in PARAMETERS:
            known = ", ".join(PARAMETERS)
            raise InputError(f"{path}: unknown parameter {key!r}; there are {known}")
        if not jsonfiles.is_number(value):
            raise InputError(f"{path}: {key} must be a number, not {value!r}")
    return Cosmology(**{key: float(value) for key, value in content.items()}, source=path)


def read_noise(path: str, nside: int) -> tuple[float, ...]:
    """N_ell of an instrument's noise at ell = 2 ... 2 nside - 1, uK^2; says how it understood it.

    Args:
        path: See `read_columns`; the second column is N_ell, a C_ell and no D_ell.
        nside: HEALPix NSIDE.
    """
    nl_bb = read_columns(path, cosmology.multipoles(nside), "N_ell")
    lowest, highest = _depths(nl_bb)
    likely = _is_likely(highest) and highest < MAX_RISE * lowest
    doubt = "" if likely else "; is it a C_ell in uK^2, not divided by a beam?"
    console.info(f"{path}: N_ell in uK^2, {_describe_depths(nl_bb)}{doubt}")
    return tuple(nl_bb.tolist())


def _depths(nl_bb: FloatArray) -> FloatArray:
    """White noise of the power at the lowest and the highest multipole, uK-arcmin."""
    return np.degrees(np.sqrt(nl_bb[[0, -1]])) * 60


def _is_likely(depth: float) -> bool:
    return LIKELY_DEPTH[0] < depth < LIKELY_DEPTH[1]


def _describe_depths(nl_bb: FloatArray) -> str:
    lowest, highest = _depths(nl_bb)
    return f"{lowest:.3g} uK-arcmin at ell = 2 and {highest:.3g} at ell = {1 + len(nl_bb)}"


def read_contaminants(path: str, n_ell: int) -> Contaminants:
    """All that lies on a signal, at ell = 2, 3, ..., n_ell of them; says how it understood it.

    Args:
        path: See `read_columns`; the second column is N_ell, a C_ell and no D_ell.
        n_ell: Multipoles.

    Raises:
        InputError: Where it cannot be read, or is none that an experiment has.
    """
    ell = 2 + np.arange(n_ell)
    nl_bb = read_columns(path, ell, "N_ell")
    words = _describe_depths(nl_bb)
    if not _is_likely(_depths(nl_bb)[1]):
        raise InputError(f"{path}: N_ell says {words}; needed is a C_ell in uK^2, no D_ell")
    console.info(f"{path}: N_ell in uK^2, {words}")
    return Contaminants(dl_contaminant=cosmology.cl_to_dl(nl_bb, ell))


def read_fiducial(path: str, nside: int, masked: bool = False) -> tuple[float, ...]:
    """Primordial BB of r = 1 at ell = 2 ... 2 nside - 1, uK^2; says how it understood it.

    Args:
        path: See `read_columns`; the second column is D_ell = ell (ell + 1) C_ell / 2 pi.
        nside: HEALPix NSIDE.
        masked: Whether it is needed up to 3 nside - 1.
    """
    ell = multipoles(nside) if masked else cosmology.multipoles(nside)
    dl_bb = read_columns(path, ell, "D_ell")
    if not dl_bb.all():
        zero = 2 + int(np.argmin(dl_bb))
        raise InputError(f"{path}: D_ell of r = 1 must be above 0, and is 0 at ell = {zero}")
    ours = cosmology.tensor_bb(1.0, ell, PLANCK_2018)
    ratios = dl_bb[[0, -1]] / ours[[0, -1]]
    likely = ((ratios > 1 / LIKELY_RATIO) & (ratios < LIKELY_RATIO)).any()
    as_cl = cosmology.cl_to_dl(dl_bb, ell)
    likely = likely and np.ptp(np.log(dl_bb / ours)) <= np.ptp(np.log(as_cl / ours))
    doubt = "" if likely else "; is it a D_ell in uK^2, at r = 1?"
    console.info(
        f"{path}: primordial D_ell in uK^2 at r = 1, {ratios[0]:.3g} times that of Planck 2018 at "
        f"ell = 2 and {ratios[1]:.3g} times at ell = {ell[-1]}{doubt}"
    )
    return tuple(dl_bb.tolist())


def read_columns(path: str, wanted: IntArray, name: str) -> FloatArray:
    """Second of two columns at multipoles that are wanted; the first is ell.

    Args:
        path: A text file, # for comments, or a .npy array of shape (n, 2).
        wanted: Multipoles 2, 3, ..., shape (n_ell,).
        name: Of the second column.

    Returns:
        Shape (n_ell,), finite and >= 0.

    Raises:
        InputError: If the file cannot be read, has other columns, or lacks a multipole.
    """
    columns = _read_table(path)
    if columns.dtype.kind not in "bcfiu":
        raise InputError(f"{path}: holds {columns.dtype}; needed are numbers, ell and {name}")
    if columns.ndim != 2 or columns.shape[1] != 2 or not np.isrealobj(columns):
        raise InputError(
            f"{path}: has shape {columns.shape}; needed are two columns, ell and {name}, as "
            f"numpy.column_stack([ell, values]) makes them"
        )
    ell, values = columns.astype(float).T
    if (ell != np.round(ell)).any() or len(np.unique(ell)) < len(ell):
        raise InputError(f"{path}: its first column must be ell, whole numbers, each once")
    missing = np.setdiff1d(wanted, ell)
    if len(missing):
        raise InputError(
            f"{path}: has no ell = {missing[0]}; needed are all of ell = 2 ... {wanted[-1]}"
        )
    order = np.argsort(ell)
    values = values[order][np.searchsorted(ell[order], wanted)]
    wrong = wanted[~(np.isfinite(values) & (values >= 0))]
    if len(wrong):
        raise InputError(
            f"{path}: {name} at ell = {wrong[0]} must be a finite number, 0 or above, not "
            f"{values[wrong[0] - 2]:g}"
        )
    return values


def _read_table(path: str) -> np.ndarray:
    try:
        if path.endswith(".npy"):
            return np.load(path, allow_pickle=False)
        with warnings.catch_warnings(), open(path, encoding="utf-8-sig") as file:
            warnings.simplefilter("ignore")  # of an empty file, whose shape says it
            return np.loadtxt(file, ndmin=2)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError) as error:  # UnicodeDecodeError is one
        raise InputError(f"{path}: is no table of two columns of numbers ({error})") from None

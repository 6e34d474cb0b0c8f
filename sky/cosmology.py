"""The microwave background: expected tensor and lensing BB, by CAMB.

All spectra are D_ell = ell (ell + 1) C_ell / 2 pi in uK^2 of CMB temperature, on the full sky,
through the beam where a function says so. Nothing here knows about files or flags.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.priors import FloatArray, SignalTemplate

IntArray = npt.NDArray[np.int64]

# Measured against CAMB at AccuracyBoost 2, lSampleBoost 3, max_l_tensor 6000 and max_eta_k_tensor
# 48000: tensors are within 0.3 % below ell = 128 and 2 % up to ell = 2047, but off by 20 % at
# 3000 and 70 % at 4095 whatever the two maxima are; lensing is within 0.4 % up to 2047.
MAX_NSIDE = 1024
# Through its nodes a `signal_template` is within 3e-6 of CAMB up to r = 1, within 3e-4 up to 2 and
# 1 % up to 3; up to 5 it is negative somewhere.
MAX_TEMPLATE_R = 1.0
# Beyond these CAMB (2.0.5) was seen to crash the process.
RANGES = {"omch2": (1e-3, 10.0), "ns": (0.3, 2.0)}
# What CAMB does without nt: single-field inflation to second order, with a running of
# r/8 (r/8 + ns - 1). To first order it is -r/8.
CONSISTENCY_TILT = "-r/8 (2 - ns - r/8)"


@dataclasses.dataclass(frozen=True)
class Cosmology:
    """Parameters under CAMB's names; by default those of Planck 2018.

    TT,TE,EE+lowE+lensing (arXiv:1807.06209, Table 2). All are given to CAMB explicitly: none of its
    defaults may move our spectra.

    Attributes:
        H0: Hubble constant, km/s/Mpc.
        ombh2: Baryons, Omega_b h^2.
        omch2: Cold dark matter, Omega_c h^2.
        omk: Curvature.
        mnu: Sum of the neutrino masses, eV.
        tau: Optical depth of reionisation.
        As: Scalar amplitude at pivot_scalar.
        ns: Scalar tilt.
        pivot_scalar: 1/Mpc.
        pivot_tensor: 1/Mpc, where r is defined.
        nt: Tensor tilt; None for `CONSISTENCY_TILT`, with which BB is not quite proportional to r.
        source: What an error names: a file.
    """

    H0: float = 67.36
    ombh2: float = 0.02237
    omch2: float = 0.1200
    omk: float = 0.0
    mnu: float = 0.06
    tau: float = 0.0544
    As: float = 2.1e-9
    ns: float = 0.9649
    pivot_scalar: float = 0.05
    pivot_tensor: float = 0.05
    nt: float | None = None
    source: str = dataclasses.field(default="cosmology", compare=False)

    def __post_init__(self) -> None:
        # all else CAMB checks itself, or takes for something else: tau < 0 for 0
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{self.source}: {name} must be from {low:g} to {high:g}")
        for name in ("H0", "ombh2", "As", "pivot_scalar", "pivot_tensor"):
            if not getattr(self, name) > 0:
                raise InputError(f"{self.source}: {name} must be above 0")
        for name in ("mnu", "tau"):
            if getattr(self, name) < 0:
                raise InputError(f"{self.source}: {name} must not be negative")

    @property
    def parameters(self) -> dict[str, float]:
        """What CAMB is given."""
        entries = {name: getattr(self, name) for name in PARAMETERS}
        return {name: value for name, value in entries.items() if value is not None}

    @property
    def own(self) -> str:
        """Parameters that are not those of Planck 2018, for people."""
        entries = self.parameters.items()
        changed = [f"{k} = {v:g}" for k, v in entries if v != getattr(PLANCK_2018, k)]
        return ", ".join(changed) or "Planck 2018"

    def to_json(self) -> Json:
        """Entry of a record."""
        return {**self.parameters, "nt": CONSISTENCY_TILT if self.nt is None else self.nt}


PARAMETERS = [field.name for field in dataclasses.fields(Cosmology) if field.name != "source"]
PLANCK_2018 = Cosmology()


@contextlib.contextmanager
def _refusals_named(cosmology: Cosmology) -> Iterator[None]:
    """InputError in place of what CAMB raises where it cannot do a cosmology."""
    import camb
    from camb.baseconfig import CAMBFortranError

    try:
        yield
    except (camb.CAMBError, camb.CAMBValueError, CAMBFortranError) as error:
        raise InputError(f"{cosmology.source}: CAMB cannot do {cosmology.own}: {error}") from None


def multipoles(nside: int) -> IntArray:
    """ell = 2 ... 2 nside - 1, shape (2 nside - 2,): what an NSIDE map resolves cleanly."""
    return np.arange(2, 2 * nside)


def cl_to_dl(cl: FloatArray, ell: IntArray) -> FloatArray:
    """D_ell = ell (ell + 1) C_ell / 2 pi; cl of shape (..., n_ell), ell of shape (n_ell,)."""
    return cl * ell * (ell + 1) / (2 * np.pi)


def dl_to_cl(dl: FloatArray, ell: IntArray) -> FloatArray:
    """C_ell = 2 pi D_ell / ell (ell + 1); dl of shape (..., n_ell), ell of shape (n_ell,)."""
    return dl * 2 * np.pi / (ell * (ell + 1))


def lensing_bb(ell: IntArray, cosmology: Cosmology = PLANCK_2018) -> FloatArray:
    """BB that lensing makes of E modes, without beam.

    Args:
        ell: Multipoles, shape (n_ell,).
        cosmology: Its parameters.

    Returns:
        D_ell, shape (n_ell,), uK^2. It comes from E and phi at high ell, so that CAMB's lmax has a
        floor of 2500 whatever ell is: within 0.05 % of a converged run.
    """
    return _lensed_scalars(ell, cosmology)[:, 2]


def lensed_ee(ell: IntArray, cosmology: Cosmology = PLANCK_2018) -> FloatArray:
    """EE of scalar perturbations, lensed, without beam: D_ell, shape (n_ell,), uK^2."""
    return _lensed_scalars(ell, cosmology)[:, 1]


def _lensed_scalars(ell: IntArray, cosmology: Cosmology) -> FloatArray:
    """CAMB's lensed TT, EE, BB, TE, shape (n_ell, 4), uK^2."""
    import camb

    lmax = max(2500, int(ell[-1]) + 1501)
    with _refusals_named(cosmology):
        params = camb.set_params(lmax=lmax, lens_potential_accuracy=2, **cosmology.parameters)
        return camb.get_results(params).get_lensed_scalar_cls(ell[-1], CMB_unit="muK")[ell]


def tensor_bb(r: float, ell: IntArray, cosmology: Cosmology = PLANCK_2018) -> FloatArray:
    """Primordial BB of gravitational waves, without beam.

    Args:
        r: Tensor-to-scalar ratio at 0.05/Mpc.
        ell: Multipoles, shape (n_ell,).
        cosmology: Its parameters.

    Returns:
        D_ell, shape (n_ell,), uK^2.

    Raises:
        InputError: If CAMB cannot do it.
    """
    if r == 0:
        return np.zeros(len(ell))
    import camb

    with _refusals_named(cosmology):
        params = camb.set_params(r=r, WantTensors=True, **cosmology.parameters)
        params.WantScalars = False
        # CAMB's power sags as ell nears its own maxima: by 10 % at ell = 2047 with 100 to spare.
        room = 100 if ell[-1] < 1024 else int(ell[-1])
        params.max_l_tensor = max(600, int(ell[-1]) + room)
        params.max_eta_k_tensor = 4 * params.max_l_tensor
        with np.errstate(over="ignore", invalid="ignore"):
            dl_bb = camb.get_results(params).get_tensor_cls(ell[-1], CMB_unit="muK")[ell, 2]
    if not np.isfinite(dl_bb).all():
        named = f"--r {r:g}" if cosmology == PLANCK_2018 else cosmology.source
        raise InputError(f"{named}: CAMB has no finite BB for r = {r:g} and {cosmology.own}")
    return dl_bb


def linear_template(dl_per_r: FloatArray) -> SignalTemplate:
    """`SignalTemplate` of a primordial BB that is proportional to r; dl_per_r (n_ell,), uK^2."""
    return SignalTemplate(np.array([0.0, 1.0]), np.array([dl_per_r, dl_per_r]))


def signal_template(
    r_min: float,
    r_max: float,
    ell: IntArray,
    cosmology: Cosmology = PLANCK_2018,
    num_nodes: int = 6,
) -> SignalTemplate:
    """`SignalTemplate` of the primordial BB for r_min <= r <= r_max, without beam.

    Unless the tilt is a number it holds up to r_max = `MAX_TEMPLATE_R`.
    """
    if cosmology.nt is not None:
        return linear_template(tensor_bb(1.0, ell, cosmology))
    angles = np.pi * (np.arange(num_nodes) + 0.5) / num_nodes
    r_nodes = (r_min + r_max) / 2 - (r_max - r_min) / 2 * np.cos(angles)
    return SignalTemplate(r_nodes, np.array([tensor_bb(r, ell, cosmology) / r for r in r_nodes]))

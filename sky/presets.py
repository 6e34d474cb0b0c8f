"""B modes of PySM3's preset skies, at the resolution of their own template maps."""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.errors import InputError
from runtime.priors import FloatArray
from sky import harmonics


def _components(preset: str) -> list[dict[str, Any]]:
    """Component dicts of a preset: one, or several where the preset is nested."""
    from pysm3.sky import PRESET_MODELS

    config = PRESET_MODELS[preset]
    return [config] if "class" in config else list(config.values())


def available() -> list[str]:
    """Names of the presets of PySM3 that are foregrounds."""
    from pysm3.sky import PRESET_MODELS

    return [p for p in PRESET_MODELS if not any("CMB" in c["class"] for c in _components(p))]


def exists(preset: str) -> bool:
    """Whether PySM3 has a preset of this name, the CMB among them."""
    from pysm3.sky import PRESET_MODELS

    return preset in PRESET_MODELS


@contextlib.contextmanager
def _one_line_without(template: str, preset: str) -> Iterator[None]:
    """Turn PySM3's failure to get or read a template into one line that says what to do."""
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError):
        # OSError without a network; a damaged FITS file makes astropy raise any of the four
        raise InputError(
            f"--foregrounds {preset}: PySM3's {template} is neither on this machine nor to be "
            "downloaded, or is damaged; set PYSM_LOCAL_DATA to a folder that holds it, or use "
            "--foregrounds gaussian"
        ) from None


def _native_nside(preset: str, nside: int) -> int:
    """NSIDE of a preset's templates, once all of them are on this machine; at least nside."""
    from astropy.io import fits
    from pysm3.utils import RemoteData

    native = 0
    components = _components(preset)
    if not any({"available_nside", "map_I"} & component.keys() for component in components):
        raise InputError(
            f"--foregrounds {preset}: is not made from maps of one resolution, which is all that "
            "can be analysed here; choose one that is, such as d1 or s1"
        )
    for component in components:
        available = component.get("available_nside", [])
        if available:
            native = min((n for n in available if n >= nside), default=max(available))
        for key, value in component.items():
            if isinstance(value, str) and re.fullmatch(r"[^\s{]+/\S+\.\w+", value):
                filename = value.replace("{nside}", str(native))
                with _one_line_without(f"template {filename}", preset):
                    path = RemoteData().get(filename)
                    if key in ("map_I", "map_Q") and not available:
                        native = fits.getheader(path, 1)["NSIDE"]
    if native < nside:
        raise InputError(
            f"--foregrounds {preset}: its templates have NSIDE {native} and end at ell = "
            f"{2 * native - 1}, below what is needed; lower --nside"
        )
    return native


def preset_modes(presets: Sequence[str], freqs_ghz: Sequence[float], ell_max: int) -> FloatArray:
    """B modes of the sky that PySM3 presets make together, without beam.

    Each preset is evaluated and analysed at the resolution of its own templates and cut in ell:
    an `ud_grade` to a lower one would take a third of the power at ell = 2 nside, and aliasing
    would add more.

    Args:
        presets: Names such as "d1", "s1", each checked with `foregrounds.check_names`.
        freqs_ghz: Observing frequencies, GHz; n_bands of them.
        ell_max: Largest multipole.

    Returns:
        Harmonic coefficients of ell = 2 ... ell_max, shape (n_bands, n_modes), uK_CMB: as
        `harmonics` orders them, their mean square C_ell.

    Raises:
        InputError: If a template cannot be had, or is too coarse for ell_max.
    """
    import healpy
    import pysm3
    import pysm3.units as u

    logging.getLogger("pysm3").setLevel(logging.CRITICAL)  # our one line says it better
    alm_b = np.zeros((len(freqs_ghz), healpy.Alm.getsize(ell_max)), complex)
    for preset in presets:
        native = _native_nside(preset, ell_max // 2 + 1)
        with _one_line_without("data for this preset", preset):
            sky = pysm3.Sky(nside=native, preset_strings=[preset], output_unit="uK_CMB")
        for band, freq_ghz in enumerate(freqs_ghz):
            with _one_line_without("data for this preset", preset):
                maps = sky.get_emission(freq_ghz * u.GHz).value
            # iter=3 is as good as pixel weights here, which healpy would download.
            native_lmax = 2 * native - 1
            alm = healpy.map2alm(maps, lmax=native_lmax, iter=3, use_pixel_weights=False)[2]
            alm_b[band] += healpy.resize_alm(alm, native_lmax, native_lmax, ell_max, ell_max)
    return harmonics.from_alm(alm_b, ell_max)

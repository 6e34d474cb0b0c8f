"""Bound on the memory of a simulation, from peaks measured at NSIDE 16 to 1024, rounded up."""

from sky import cleaning, foregrounds
from sky.observation import Observation, SkyModel
from sky.simulator import CHUNK_MODES, CHUNK_VALUES

BASE = 6 * 10**8  # bytes of Python, its packages, CAMB and PySM3 at low ell
CAMB_BYTES = 5 * 10**4  # for each multipole
CHUNK_ARRAYS = 12  # arrays as large as a chunk of rows that stand at a time
BAND_ARRAYS = 3  # arrays of the modes of one sky in all bands, however it is cleaned
PRIOR_ARRAYS = 8  # arrays of the spectra of all skies whose mean is that of an ensemble
MAP_ARRAYS = 60  # arrays as large as a map that PySM3 holds
TEMPLATE_NSIDE = 512  # of PySM's common templates, which are analysed as they are


def peak_memory(model: SkyModel, observation: Observation) -> int:
    """Bound on the memory of a run in bytes, whatever the number of rows."""
    hilc = observation.cleaning
    n_ell, modes = 2 * model.nside, len(observation.bands) * (2 * model.nside) ** 2
    chunk = max(CHUNK_VALUES, n_ell)
    if hilc is not None and hilc.weights_from == "sky":
        chunk = max(CHUNK_MODES, modes)
    prior = cleaning.NUM_PARAMETERS * n_ell if "gaussian-ensemble" in model.foregrounds else 0
    native = max(TEMPLATE_NSIDE, model.nside)
    maps = 0 if model.foregrounds[0] in foregrounds.STANDALONE else 12 * native**2
    values = CHUNK_ARRAYS * chunk + BAND_ARRAYS * modes + PRIOR_ARRAYS * prior + MAP_ARRAYS * maps
    return BASE + CAMB_BYTES * n_ell + 8 * values

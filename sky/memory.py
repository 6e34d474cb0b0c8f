"""Bound on the memory of a simulation, from peaks measured at NSIDE 8 to 1024, rounded up."""

from runtime import processes, resources
from runtime.errors import InputError
from sky import cleaning, foregrounds
from sky.analysis import Masking
from sky.masked_simulator import CHUNK_ROWS
from sky.observation import Observation, SkyModel
from sky.simulator import CHUNK_MODES, CHUNK_VALUES

BASE = 6 * 10**8  # bytes of Python, its packages, CAMB and PySM3 at low ell
MASKED_BASE = 45 * 10**7  # the same up to NSIDE 32
CAMB_BYTES = 5 * 10**4  # for each multipole
CHUNK_ARRAYS = 12  # arrays as large as a chunk of rows that stand at a time
BAND_ARRAYS = 3  # arrays of the modes of one sky in all bands, however it is cleaned
PRIOR_ARRAYS = 8  # arrays of the spectra of all skies whose mean is that of an ensemble
MAP_ARRAYS = 60  # arrays as large as a map that PySM3 holds
TEMPLATE_NSIDE = 512  # of PySM's common templates, which are analysed as they are


def peak_memory(model: SkyModel, observation: Observation, num_threads: int = 1) -> int:
    """Bound on the memory of a run in bytes, whatever the number of rows.

    Args:
        model: Of the sky.
        observation: Of it.
        num_threads: That draw rows of a masked sky; those of others are small.
    """
    hilc = observation.cleaning
    n_ell, modes = 2 * model.nside, len(observation.bands) * (2 * model.nside) ** 2
    chunk = max(CHUNK_VALUES, n_ell)
    if hilc is not None and hilc.weights_from == "sky":
        chunk = max(CHUNK_MODES, modes)
    prior = cleaning.NUM_PARAMETERS * n_ell if "gaussian-ensemble" in model.foregrounds else 0
    native = max(TEMPLATE_NSIDE, model.nside)
    maps = 0 if model.foregrounds[0] in foregrounds.STANDALONE else 12 * native**2
    values = BAND_ARRAYS * modes + PRIOR_ARRAYS * prior + MAP_ARRAYS * maps
    if observation.masking is not None:
        values += masked_values(observation.masking, num_threads)
        return MASKED_BASE + CAMB_BYTES * n_ell + 8 * values
    return BASE + CAMB_BYTES * n_ell + 8 * (CHUNK_ARRAYS * chunk + values)


def masked_values(masking: Masking, num_threads: int) -> int:
    """Numbers that the set-up of a masked sky and its rows hold at a time."""
    n_pixels, n_modes = 2 * len(masking.survey.pixels), 9 * masking.survey.nside**2 - 4
    modes = n_pixels * n_modes  # Q and U of all modes
    if masking.e_modes == "known":
        n_data = min(n_pixels, n_modes)
        set_up = 6 * modes + 2 * n_pixels**2
    else:
        n_data = max(n_pixels - n_modes, n_pixels // 4)
        set_up = 5 * modes + n_modes**2
    estimator = modes + 4 * n_data * n_modes + 2 * n_data**2
    rows = 5 * num_threads * CHUNK_ROWS * max(n_data, n_modes)
    return max(set_up, estimator) + rows


def check_room(model: SkyModel, observation: Observation, num_threads: int) -> None:
    """InputError where a masked sky needs more memory than each process here may have."""
    if observation.masking is None:
        return
    needed = peak_memory(model, observation, num_threads)
    has, shared = resources.machine_memory(), processes.local_world_size()
    if needed * shared > has:
        each = f" each of {shared} processes" if shared > 1 else ""
        raise InputError(
            f"--nside {model.nside}: with this --mask it takes{each} up to "
            f"{resources.format_size(needed)} of memory, and this machine has "
            f"{resources.format_size(has)}; lower --nside, or mask more of the sky"
        )

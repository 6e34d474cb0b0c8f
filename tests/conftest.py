"""What tests of several modules share: simulated files, and CAMB's lensing at no cost."""

import functools

import numpy as np
import pytest

import data_generation
from runtime import tables
from sky import cosmology

real_lensing_bb = cosmology.lensing_bb


@functools.cache
def lensing_once(ell_max):
    """Lensing BB takes CAMB seconds: once for each ell_max is enough."""
    return real_lensing_bb(np.arange(2, ell_max + 1))


def lensing_of_planck(ell, parameters=cosmology.PLANCK_2018):
    """`cosmology.lensing_bb`, cached for the usual parameters."""
    if parameters != cosmology.PLANCK_2018:
        return real_lensing_bb(ell, parameters)
    return lensing_once(int(ell[-1]))


@pytest.fixture
def cached_lensing(monkeypatch):
    """CAMB's lensing BB, computed once for each ell_max."""
    monkeypatch.setattr(cosmology, "lensing_bb", lensing_of_planck)


@pytest.fixture
def generate(tmp_path):
    """Run the script into a folder of its own; returns a reader of its files."""

    def run(*arguments, out="data", rows=500):
        folder = tmp_path / out
        words = ["--num-samples", rows, "--nside", 8, "--out-dir", folder, *arguments]
        data_generation.main([str(word) for word in words])
        return lambda name: tables.load_spectra(str(folder / f"{name}.npy"))

    return run


def _cached(function):
    """A function of multipoles, r before them or not, of the usual cosmology."""

    @functools.cache
    def known(ell_max, parameters, *r):
        return function(*r, np.arange(2, ell_max + 1), parameters)

    num_r = function is cosmology.tensor_bb

    def cached(*arguments):
        *r, ell = arguments[: num_r + 1]
        parameters = arguments[len(r) + 1 :] or (cosmology.PLANCK_2018,)
        return known(int(ell[-1]), parameters[0], *r)

    return cached


CACHED = {
    name: _cached(getattr(cosmology, name)) for name in ("lensing_bb", "lensed_ee", "tensor_bb")
}


@pytest.fixture(scope="module")
def cached_camb():
    """All of CAMB's spectra, computed once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, function in CACHED.items():
            patch.setattr(cosmology, name, function)
        yield

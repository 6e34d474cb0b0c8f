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

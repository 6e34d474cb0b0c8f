"""Observations that no training row resembles: seen, named, and not seen where there are none."""

import numpy as np
import pytest
import torch

from diffusion import reach
from diffusion.normalizers import Normalizer
from diffusion.reach import Observed, Reach
from runtime.errors import InputError

ELL = np.arange(2, 16)
SIGNAL = 1e-3 * (ELL / 10.0) ** 1.5 + 2e-4 * np.exp(-((ELL / 4) ** 2))


def spectra(n, seed):
    """Rows of a full sky, S chi^2_nu / nu."""
    nu = 2 * ELL + 1
    return SIGNAL * np.random.default_rng(seed).chisquare(nu, (n, len(ELL))) / nu


TRAINING = torch.from_numpy(spectra(4000, 0))
NORMALIZER = Normalizer.fit([TRAINING.clone()])
REACH = Reach.of([NORMALIZER.normalize(TRAINING)])


def check(values, insist=False, raised=False, is_spectrum=True):
    observed = Observed("y.npy", values, NORMALIZER.normalize, is_spectrum, raised)
    return reach.check(REACH, observed, insist)


def test_other_rows_of_the_same_law_pass():
    assert not check(spectra(20_000, 1))


WEIGHT = ELL * (ELL + 1) / (2 * np.pi)
SLIPS = {
    r"D_ell in K\^2": lambda dl: dl * 1e-12,
    r"D_ell in mK\^2": lambda dl: dl * 1e-6,
    "C_ell, which lacks": lambda dl: dl / WEIGHT,
    r"C_ell in K\^2": lambda dl: dl / WEIGHT * 1e-12,
    "look like D_ell in 1e-12": lambda dl: dl * 1e12,
}


@pytest.mark.parametrize("cause", SLIPS)
def test_a_slip_is_refused_and_named(cause, capsys):
    values = SLIPS[cause](spectra(1, 2))
    with pytest.raises(InputError, match=cause):
        check(values)
    assert check(values, insist=True)
    assert "cannot be trusted" in capsys.readouterr().err


def test_a_factor_is_refused_without_a_cause():
    with pytest.raises(InputError, match="check unit and ell"):
        check(50 * spectra(3, 3))


def test_one_strange_row_among_many_is_found():
    values = spectra(9000, 4)
    values[8000] *= 50
    with pytest.raises(InputError, match="1 of 9,000 observations .* row 8000"):
        check(values)


def test_the_recipe_takes_noise_but_no_other_unit():
    assert not check(spectra(5, 5) + 1000 * SIGNAL, raised=True)
    with pytest.raises(InputError, match=r"K\^2"):
        check(1e-12 * (spectra(5, 5) + 3 * SIGNAL), raised=True)


def test_no_spectrum_is_not_taken_for_one():
    with pytest.raises(InputError) as caught:
        check(SLIPS["C_ell, which lacks"](spectra(1, 6)), is_spectrum=False)
    assert "C_ell" not in str(caught.value)


def test_reach_round_trip():
    assert Reach.from_json(REACH.to_json()) == REACH

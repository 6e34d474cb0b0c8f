"""The learned prior is at the noise floor (make test-slow): minutes of training and sampling."""

import json

import numpy as np
import pytest

import sample
import sde_utils
import solvers
import storage
import train


@pytest.fixture(scope="module", params=sde_utils.SDES)
def trained(request, tmp_path_factory):
    """A checkpoint trained with the defaults on 10,000 rows of the exact law at 30 multipoles."""
    folder = tmp_path_factory.mktemp(request.param)
    nu = 2 * np.arange(2, 32) + 1
    # after normalisation the power spectrum drops out of everything that is measured here
    rows = np.random.default_rng(0).chisquare(nu, (10000, 30)) / nu * 1e-5
    metadata = {"quantity": "primordial BB", "r": 0.001, "dl_signal": [1e-5] * 30}
    storage.write_array(str(folder / "rows.npy"), rows, metadata)
    files = ["--data-file", str(folder / "rows.npy"), "--out", str(folder / "model.pth")]
    train.main([*files, "--sde-type", request.param])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", solvers.SOLVERS)
def test_generated_spectra_follow_the_exact_law(trained, method):
    out = trained / method
    checkpoint = str(trained / "model.pth")
    sample.main(["--model-checkpoint", checkpoint, "--method", method, "--out-dir", str(out)])
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["ks_mean"] <= 0.015
    assert metrics["ks_low"] <= 0.014
    assert metrics["skewness_error"] <= 0.06

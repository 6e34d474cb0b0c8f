"""The learned prior and posterior meet their bars (make test-slow): an hour of training."""

import json

import numpy as np
import pytest

import data_generation
import evaluate
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


@pytest.mark.slow
@pytest.mark.parametrize("r", ["one", "range"])
def test_posterior_meets_its_bars(r, tmp_path):
    """The README's posteriors, by the README's commands: every check of evaluate.py passes."""
    data = f"{tmp_path}/data"
    words, label = ("--r 0.001", "0.001") if r == "one" else ("--r-range 0 0.01", "0-0.01")
    rows, epochs = (100000, 80) if r == "one" else (500000, 36)
    words += f" --foregrounds none --noise-uk-arcmin 1 --num-samples {rows} --num-test 1000"
    data_generation.main([*words.split(), "--out-dir", data])
    names = {"data-file": "dl_train", "cond-file": "dl_train_noisy", "param-file": "r_train"}
    if r == "one":
        del names["param-file"]
    words = " ".join(f"--{flag} {data}/{name}_r{label}.npy" for flag, name in names.items())
    words += f" --hidden-dim 128 --num-layers 2 --batch-size 1024 --lr 4e-3 --epochs {epochs}"
    train.main([*words.split(), "--out", f"{tmp_path}/model.pth"])
    pair = (
        f"--data-file-noisy {data}/dl_noisy_r{label}.npy --data-file-gt {data}/dl_gt_r{label}.npy"
    )
    words = f"{pair} --model-checkpoint {tmp_path}/model.pth --method ode --out-dir {tmp_path}/run"
    sample.main(words.split())
    words = f"--runs {tmp_path}/run {pair} --out-dir {tmp_path}/evaluation"
    words += f" --param-file-gt {data}/r_gt_r{label}.npy" if r == "range" else ""
    evaluate.main(words.split())
    report = json.loads((tmp_path / "evaluation" / "report.json").read_text())
    (run,) = report["runs"].values()
    assert [row for row in run["checks"] if not row["passed"]] == []

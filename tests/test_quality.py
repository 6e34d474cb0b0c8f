"""The learned prior and posterior meet their bars (make test-slow): an hour of training."""

import json

import numpy as np
import pytest

import data_generation
import evaluate
import sample
import sde_utils
import train
from diffusion import solvers
from runtime import tables
from runtime.priors import Prior
from runtime.records import Record


@pytest.fixture(scope="module", params=sde_utils.SDES)
def trained(request, tmp_path_factory):
    """A checkpoint trained with the defaults on 10,000 rows of the exact law at 30 multipoles."""
    folder = tmp_path_factory.mktemp(request.param)
    nu = 2 * np.arange(2, 32) + 1
    # after normalisation the power spectrum drops out of everything that is measured here
    rows = np.random.default_rng(0).chisquare(nu, (10000, 30)) / nu * 1e-5
    prior = Prior(r=0.001, dl_signal=np.full(30, 1e-5))
    tables.write_array(str(folder / "rows.npy"), rows, Record("primordial BB", prior=prior))
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


CLEAN = "--foregrounds none --noise-uk-arcmin 1"
POSTERIORS = {  # r, what is observed, training rows, epochs
    "one r": ("0.001", CLEAN, 100_000, 80),
    "range": ("0-0.01", CLEAN, 500_000, 36),
    "known weights": ("0-0.01", "--instrument echo --clean hilc --ilc-weights model", 200_000, 36),
    "own weights": (
        "0-0.01",
        "--instrument echo --clean hilc --ilc-weights sky",
        200_000,
        36,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("r", "sky", "rows", "epochs"), POSTERIORS.values(), ids=POSTERIORS.keys())
def test_posterior_meets_its_bars(r, sky, rows, epochs, tmp_path):
    """Every check of evaluate.py passes: the README's posteriors, and those of cleaned spectra."""
    data, ranged = f"{tmp_path}/data", "-" in r
    words = f"--r-range {r.replace('-', ' ')}" if ranged else f"--r {r}"
    words += f" {sky} --num-samples {rows} --num-test 1000"
    data_generation.main([*words.split(), "--out-dir", data])
    names = {"data-file": "dl_train", "cond-file": "dl_train_noisy"}
    names |= {"param-file": "r_train"} if ranged else {}
    words = " ".join(f"--{flag} {data}/{name}_r{r}.npy" for flag, name in names.items())
    words += f" --hidden-dim 128 --num-layers 2 --batch-size 1024 --lr 4e-3 --epochs {epochs}"
    train.main([*words.split(), "--out", f"{tmp_path}/model.pth"])
    pair = f"--data-file-noisy {data}/dl_noisy_r{r}.npy --data-file-gt {data}/dl_gt_r{r}.npy"
    words = f"{pair} --model-checkpoint {tmp_path}/model.pth --method ode --out-dir {tmp_path}/run"
    sample.main(words.split())
    words = f"--runs {tmp_path}/run {pair} --out-dir {tmp_path}/evaluation"
    words += f" --param-file-gt {data}/r_gt_r{r}.npy" if ranged else ""
    evaluate.main(words.split())
    report = json.loads((tmp_path / "evaluation" / "report.json").read_text())
    (run,) = report["runs"].values()
    assert [row for row in run["checks"] if not row["passed"]] == []
    assert run["tarp"]["p_value"] > 0.01 and run["sbc"]["smallest_times_ell"] > 0.01
    assert ("r2_limit" in run) == (not sky.endswith("sky"))

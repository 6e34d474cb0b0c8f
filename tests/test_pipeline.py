"""The scripts as a person runs them, small: train.py and sample.py on drawn spectra."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import sample
import sde_utils
import train
from checks.paper import MIN_DRAWS
from diffusion import solvers
from diffusion.trained import Trained
from runtime import jsonfiles, priors, records, tables

SIGNAL = 1e-5 * np.ones(6)
NOISE = 1e-6 * np.ones(6)
TINY = ["--hidden-dim", "16", "--embed-dim", "8", "--num-layers", "1", "--batch-size", "50"]
TINY += ["--device", "cpu"]


def draw(n, seed):
    """Truth and observation of n toy skies with six multipoles and Gaussian noise."""
    rng = np.random.default_rng(seed)
    truth, observed = np.empty((n, 6)), np.empty((n, 6))
    for column, nu in enumerate(2 * np.arange(2, 8) + 1):
        modes = rng.normal(0, SIGNAL[column] ** 0.5, (n, nu))
        truth[:, column] = (modes**2).mean(1)
        modes += rng.normal(0, NOISE[column] ** 0.5, (n, nu))
        observed[:, column] = (modes**2).mean(1)
    return truth, observed


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with the default files of a small simulation."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("data")
    theory = {"dl_signal": SIGNAL.tolist(), "dl_contaminant": NOISE.tolist()}
    metadata = {"quantity": "primordial BB", "unit": "uK^2", "r": 0.001, **theory}
    truth, observed = draw(400, 1)
    record = records.Record.from_json(metadata)
    observation = record.replace(quantity="observed BB")
    tables.write_array("data/dl_train_r0.001.npy", truth, record)
    tables.write_array("data/dl_train_noisy_r0.001.npy", observed, observation)
    truth, observed = draw(300, 2)
    tables.write_array("data/dl_gt_r0.001.npy", truth, record)
    tables.write_array("data/dl_noisy_r0.001.npy", observed, observation)
    return tmp_path


def fails(main, argv, code, capsys):
    """Run a script that must fail; the one line that it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(argv)
    captured = capsys.readouterr()
    assert caught.value.code == code
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(lines) == 1 and "Traceback" not in captured.err
    return lines[0]


DENOISE = ["--data-file-noisy", "data/dl_noisy_r0.001.npy", "--data-file-gt"]
DENOISE += ["data/dl_gt_r0.001.npy", "--device", "cpu"]


@pytest.mark.parametrize("sde", sde_utils.SDES)
def test_train_and_sample_with_every_solver(sde, capsys):
    train.main([*TINY, "--sde-type", sde, "--epochs", "2"])
    trained = Trained.load("model.pth")
    history = np.array(list(trained.training["history"].values())).T
    assert np.array_equal(np.load("model.loss.npy"), history) and history.shape == (2, 3)
    assert os.path.getsize("model.loss.png") > 0
    for method in solvers.SOLVERS:
        extra = ["--method", method, "--num-steps", "5", "--out-dir", method]
        sample.main([*DENOISE, *extra, "--plot-trajectories", "--trajectory-index", "7"])
        spectra = tables.load_spectra(f"{method}/denoised.npy")
        assert spectra.values.shape == (300, 6)
        report = jsonfiles.read_json(f"{method}/metrics.json")
        assert set(report["mse"]) == {"denoised", "observation", "prior_mean", "prior_draw"}
        assert report["correlation"]["limit"] == pytest.approx([1 / 1.1] * 6)
        assert report["verdict"] in capsys.readouterr().out
        states = tables.read_npy(f"{method}/trajectory.npy")
        assert states.shape == (7, 7) and states[-1, 0] == 0
        observation = torch.tensor(np.load("data/dl_noisy_r0.001.npy")[7])
        first = trained.normalizer.spectrum.normalize(observation)
        assert states[0, 1:] == pytest.approx(first.numpy(), rel=1e-6)
        last = trained.normalizer.spectrum.denormalize(torch.tensor(states[-1, 1:]))
        assert last.numpy() == pytest.approx(spectra.values[7], rel=1e-5)


def test_the_previous_checkpoint_is_kept():
    train.main([*TINY, "--epochs", "1"])
    with open("model.pth", "rb") as file:
        first = file.read()
    train.main([*TINY, "--epochs", "1", "--seed", "1"])
    with open("model.previous.pth", "rb") as file:
        assert file.read() == first


def test_the_null_test_cannot_be_trained_on(capsys):
    null = records.Record(prior=priors.Prior(r=0.0))
    tables.write_array("data/dl_train_r0.npy", np.zeros((10, 6)), null)
    message = fails(train.main, [*TINY, "--data-file", "data/dl_train_r0.npy"], 2, capsys)
    assert "null test" in message
    assert not os.path.exists("model.pth")


BAD_TRAIN = {
    "sigma_min": ["--sigma-min", "3", "--sigma-max", "2"],
    "--beta-min": ["--beta-min", "1"],
    "--batch-size": ["--batch-size", "0"],
    "--embed-dim": ["--embed-dim", "7"],
    "--val-fraction": ["--val-fraction", "1"],
    "--lr": ["--lr", "nan"],
    "--epochs": ["--epochs", "9" * 400],
    "--seed": ["--seed", "-1"],
    "gone.npy": ["--data-file", "gone.npy"],
    "cannot write": ["--out", "data/dl_gt_r0.001.npy/model.pth"],
}


def test_bad_usage_of_train(capsys):
    before = sorted(os.listdir("."))
    for part, argv in BAD_TRAIN.items():
        assert part in fails(train.main, [*TINY, *argv], 2, capsys)
    assert sorted(os.listdir(".")) == before


TEMPLATE = {"r_nodes": [0.002, 0.008], "dl_per_r": [[1e-2] * 6] * 2}
JOINT = ["--data-file", "data/dl_train_r0-0.01.npy", "--cond-file"]
JOINT += ["data/dl_train_noisy_r0-0.01.npy", "--param-file", "data/r_train_r0-0.01.npy"]
POSTERIOR = ["--data-file-noisy", "data/dl_noisy_r0-0.01.npy", "--data-file-gt"]
POSTERIOR += ["data/dl_gt_r0-0.01.npy", "--device", "cpu", "--num-steps", "4"]


@pytest.fixture
def pairs(folder):
    """Training and test rows with an r of their own, and their observations."""
    metadata = {"r_range": [0.0, 0.01], "signal_template": TEMPLATE, "seed": 0}
    metadata["dl_contaminant"] = NOISE.tolist()
    for split, n, names in (
        ("train", 400, ("dl_train_r{}", "dl_train_noisy_r{}", "r_train_r{}")),
        ("test", 30, ("dl_gt_r{}", "dl_noisy_r{}", "r_gt_r{}")),
    ):
        rng = np.random.default_rng(n)
        r = rng.uniform(0, 0.01, n)
        nu = 2 * np.arange(2, 8) + 1
        truth = 1e-2 * r[:, None] * rng.chisquare(nu, (n, 6)) / nu
        observed = truth + NOISE * rng.chisquare(nu, (n, 6)) / nu  # no more than a toy
        quantities = ("primordial BB", "observed BB", "r")
        for name, values, quantity in zip(names, (truth, observed, r), quantities, strict=True):
            path = f"data/{name.format('0-0.01')}.npy"
            content = {**metadata, "split": split, "quantity": quantity}
            tables.write_array(path, values, records.Record.from_json(content))
    return folder


@pytest.mark.parametrize("sde", sde_utils.SDES)
def test_joint_posterior_with_every_solver(sde, pairs, capsys):
    train.main([*TINY, *JOINT, "--sde-type", sde, "--epochs", "2"])
    methods = {method: ["--method", method] for method in solvers.SOLVERS}
    methods |= {name: ["--method", "ode", "--ode-solver", name] for name in solvers.ODE_SOLVERS}
    for method, flags in methods.items():
        extra = [*flags, "--out-dir", method, "--num-draws", "7"]
        sample.main([*POSTERIOR, *extra, "--plot-trajectories", "--trajectory-index", "3"])
        draws = tables.load_table(f"{method}/posterior_draws.npy", 3).values
        r = tables.load_table(f"{method}/r_draws.npy", 2).values
        assert draws.shape == (30, 7, 6) and r.shape == (30, 7)
        assert r.min() >= 0 and r.max() <= 0.01
        mean = tables.load_spectra(f"{method}/denoised.npy").values
        np.testing.assert_allclose(mean, draws.mean(1))
        std = tables.load_spectra(f"{method}/posterior_std.npy").values
        np.testing.assert_allclose(std, draws.std(1))
        quantiles = tables.load_table(f"{method}/posterior_quantiles.npy", 3).values
        np.testing.assert_allclose(quantiles[:, 1], np.median(draws, 1))
        states = tables.read_npy(f"{method}/trajectory.npy")
        assert states.shape == (6, 8)
        out = capsys.readouterr().out
        assert "r = " in out and "a 95 % limit (20)" in out  # 7 draws do for 68 %
        report = jsonfiles.read_json(f"{method}/metrics.json")
        assert report["r"]["median"] == pytest.approx(np.median(r[3]))


def test_chains_and_the_line_of_a_paper(pairs, capsys):
    import getdist

    train.main([*TINY, *JOINT, "--epochs", "1"])
    flags = ["--method", "ode", "--num-steps", "3", "--num-draws", str(MIN_DRAWS)]
    sample.main([*POSTERIOR, *flags, "--trajectory-index", "3", "--chains", "there/run.txt"])
    chain = getdist.loadMCSamples("there/run", no_cache=True)
    np.testing.assert_array_equal(chain["r"], tables.load_table("r_draws.npy", 2).values[3])
    assert (chain.ranges.getLower("r"), chain.ranges.getUpper("r")) == (0, 0.01)
    said = capsys.readouterr()
    assert "row 3 of 30; --trajectory-index" in said.err and "there/run.ranges" in said.out
    assert [line for line in said.out.splitlines() if line.startswith("row 3: r ")]
    again = [*POSTERIOR, *flags, "--trajectory-index", "3", "--resume", "--chains", "later"]
    sample.main(again)  # of a finished run
    assert "is finished" in capsys.readouterr().err
    with open("later.txt") as later, open("there/run.txt") as run:
        assert later.read() == run.read()


def test_chains_need_parameters(pairs, capsys):
    train.main([*TINY, *JOINT[:4], "--epochs", "1"])
    assert "has no parameters" in fails(sample.main, [*POSTERIOR, "--chains", "a"], 2, capsys)
    assert "is a folder" in fails(sample.main, [*POSTERIOR, "--chains", "data"], 2, capsys)


BAD_JOINT = {
    "--param-file needs": JOINT[4:],
    "match row for row": [*JOINT[:3], "data/dl_noisy_r0-0.01.npy"],
    "--cond-file data/dl_train_r0-0.01.npy: holds primordial": [*JOINT[:3], JOINT[1]],
    "not of the same skies": [*JOINT[:3], "data/dl_train_noisy_r0.001.npy"],
    "has 6 columns": [*JOINT[:5], "data/dl_train_r0-0.01.npy"],
    "gone.npy": [*JOINT[:3], "gone.npy"],
}


def test_bad_pairs_of_train(pairs, capsys):
    for part, argv in BAD_JOINT.items():
        assert part in fails(train.main, [*TINY, *argv], 2, capsys)
    assert not os.path.exists("model.pth")


@pytest.mark.parametrize("script", ["data_generation", "train", "sample", "evaluate"])
def test_help_needs_no_heavy_import(script):
    code = (
        f"import sys, {script}\n"
        f"parser = {script}.build_parser()\n"
        "assert 'Example' in parser.format_help()\n"
        "heavy = {'torch', 'camb', 'healpy', 'pysm3', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = os.path.dirname(os.path.abspath(train.__file__))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)

"""The scripts as a person runs them, small: train.py and sample.py on drawn spectra."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import checkpoints
import files
import metrics
import reverse
import sample
import sde_utils
import solvers
import storage
import train

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
    storage.write_array("data/dl_train_r0.001.npy", truth, metadata)
    observation = {**metadata, "quantity": "observed BB"}
    storage.write_array("data/dl_train_noisy_r0.001.npy", observed, observation)
    truth, observed = draw(300, 2)
    storage.write_array("data/dl_gt_r0.001.npy", truth, metadata)
    metadata["quantity"] = "observed BB"
    storage.write_array("data/dl_noisy_r0.001.npy", observed, metadata)
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
    checkpoint = checkpoints.load("model.pth")
    history = np.array(list(checkpoint["training"]["history"].values())).T
    assert np.array_equal(np.load("training_loss.npy"), history) and history.shape == (2, 3)
    assert os.path.getsize("training_loss.png") > 0
    for method in solvers.SOLVERS:
        extra = ["--method", method, "--num-steps", "5", "--out-dir", method]
        sample.main([*DENOISE, *extra, "--plot-trajectories", "--trajectory-index", "7"])
        spectra = storage.load_spectra(f"{method}/denoised.npy")
        assert spectra.values.shape == (300, 6)
        report = storage.read_json(f"{method}/metrics.json")
        assert set(report["mse"]) == {"denoised", "observation", "prior_mean", "prior_draw"}
        assert report["correlation"]["limit"] == pytest.approx([1 / 1.1] * 6)
        assert report["verdict"] in capsys.readouterr().out
        states = storage.read_npy(f"{method}/trajectory.npy")
        assert states.shape == (7, 7) and states[-1, 0] == 0
        observation = torch.tensor(np.load("data/dl_noisy_r0.001.npy")[7])
        first = checkpoint["normalizer"].normalize(observation)
        assert states[0, 1:] == pytest.approx(first.numpy(), rel=1e-6)
        last = checkpoint["normalizer"].denormalize(torch.tensor(states[-1, 1:]))
        assert last.numpy() == pytest.approx(spectra.values[7], rel=1e-5)


def test_generate_is_reproducible_and_follows_the_seed():
    train.main([*TINY, "--epochs", "1"])
    results = []
    for seed in ("0", "0", "1"):
        extra = ["--num-samples", "1100", "--num-steps", "3", "--seed", seed, "--device", "cpu"]
        sample.main(extra)
        results.append(np.load("generated.npy"))
    assert np.array_equal(results[0], results[1])
    assert not (results[0] == results[2]).any()
    report = storage.read_json("metrics.json")
    assert 0 < report["ks_mean"] < 1 and report["network_evaluations"] == 4


def test_generated_metrics_are_at_the_floor_for_exact_draws():
    truth, _ = draw(4000, 5)
    metadata = {"quantity": "primordial BB", "r": 0.001, "dl_signal": SIGNAL.tolist()}
    good = metrics.compare_with_law(truth, metadata)
    # the mean KS distance of n exact draws is 0.8687 / sqrt(n), with a spread of 0.26 / sqrt(n)
    assert good["ks_mean"] == pytest.approx(0.8687 / 4000**0.5, abs=5 * 0.26 / (6 * 4000) ** 0.5)
    log = np.log(truth)
    gaussian = np.random.default_rng(0).normal(log.mean(0), log.std(0), log.shape)
    assert metrics.compare_with_law(np.exp(gaussian), metadata)["ks_mean"] > 2 * good["ks_mean"]
    assert metrics.compare_with_law(np.exp(gaussian), metadata)["skewness_error"] > 0.3


def test_verdict_tells_an_echo_from_a_denoiser():
    truth, observed = draw(2000, 6)
    limit = SIGNAL / (SIGNAL + NOISE)
    fresh, _ = draw(2000, 7)
    echo = metrics.verdict(metrics.correlation(fresh, truth), limit, 2000, -1.0)
    assert "no more information than the prior" in echo
    shuffled = metrics.verdict(
        metrics.correlation(np.roll(observed, 1, 0), truth), limit, 2000, -1.0
    )
    assert "no more information than the prior" in shuffled
    corr = metrics.correlation(observed, truth)
    for known in (limit, None):
        assert "of the prior mean's" in metrics.verdict(corr, known, 2000, 0.5)
        assert "worse than the prior mean" in metrics.verdict(corr, known, 2000, -0.5)
    assert "holds no information" in metrics.verdict(limit * 0, limit * 1e-4, 2000, -1.0)


def test_metrics_of_the_prior_mean_and_of_a_fresh_draw():
    truth, observed = draw(20000, 8)
    fresh, _ = draw(20000, 9)
    table = metrics.denoising_metrics(
        {"mean": (SIGNAL, 0.0), "fresh": (fresh, None), "same": (truth, 0.0)}, truth, SIGNAL, None
    )
    variance = np.mean(2 / (2 * np.arange(2, 8) + 1))
    assert table["mean"]["mse_dl_over_signal_squared"] == pytest.approx(variance, rel=0.05)
    assert table["fresh"]["mse_dl_over_signal_squared"] == pytest.approx(2 * variance, rel=0.05)
    assert table["same"]["mse_dl"] == 0 and table["same"]["mse_normalised"] is None


@pytest.mark.parametrize("num_draws", [1, 3, 7])
@pytest.mark.parametrize("sde", sde_utils.SDES)
def test_every_draw_belongs_to_its_own_observation(sde, num_draws, monkeypatch):
    """With a posterior that is a point at y, all draws of a row come back as its y."""
    monkeypatch.setattr(reverse, "BLOCK_ROWS", 6)
    process = sde_utils.SDES[sde]()

    def point(x, t, y):
        return (x - process.alpha(t) * y) / process.sigma(t)

    kwargs = {"n_ell": 4, "n_param": 0}
    checkpoint = {"sde": process, "network": point, "network_kwargs": kwargs}
    y = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    step = solvers.SOLVERS["ode"].make
    draws = reverse.Reverse(checkpoint, step, torch.tensor(1.0), 20, 0, None)
    x = torch.cat(list(draws.blocks(10 * num_draws, y=y, num_draws=num_draws)))
    expected = y.repeat_interleave(num_draws, 0)
    torch.testing.assert_close(x, expected, atol=1e-3, rtol=0)


def test_the_previous_checkpoint_is_kept():
    train.main([*TINY, "--epochs", "1"])
    with open("model.pth", "rb") as file:
        first = file.read()
    train.main([*TINY, "--epochs", "1", "--seed", "1"])
    with open("model.previous.pth", "rb") as file:
        assert file.read() == first


def test_the_null_test_cannot_be_trained_on(capsys):
    zeros = np.zeros((10, 6))
    storage.write_array("data/dl_train_r0.npy", zeros, {"r": 0.0})
    message = fails(train.main, [*TINY, "--data-file", "data/dl_train_r0.npy"], 2, capsys)
    assert "null test" in message
    assert not os.path.exists("model.pth")


def test_the_null_test_can_be_sampled(capsys):
    train.main([*TINY, "--epochs", "1"])
    storage.write_array("data/dl_gt_r0.npy", np.zeros((300, 6)), {"r": 0.0})
    argv = [*DENOISE, "--num-steps", "3"]
    argv[3] = "data/dl_gt_r0.npy"
    sample.main(argv)
    assert "does not vary" in capsys.readouterr().out


def test_a_model_of_another_r_says_so(capsys):
    train.main([*TINY, "--epochs", "1"])
    _, observed = draw(50, 3)
    storage.write_array("other.npy", observed, {"r": 0.01})
    sample.main(["--data-file-noisy", "other.npy", "--num-steps", "3", "--device", "cpu"])
    assert "trained at r = 0.001" in capsys.readouterr().err
    assert os.path.exists("denoised.npy")


BAD_SAMPLE = {
    "--sde-type": ["--sde-type", "VP"],
    "--sigma-min": ["--sigma-min", "0.2"],
    "--beta-max": ["--beta-max", "20"],
    "--corrector-steps": ["--corrector-steps", "2", "--method", "ode"],
    "--t-start": ["--t-start", "1.5"],
    "generating": [*DENOISE, "--num-samples", "5"],
    "needs --data-file-noisy": ["--data-file-gt", "data/dl_gt_r0.001.npy"],
    "--trajectory-index": ["--num-samples", "5", "--trajectory-index", "5"],
    "--device": ["--device", "toaster"],
    "--method": ["--method", "magic"],
    "cannot write": ["--out-dir", "model.pth"],
    "gone.pth": ["--model-checkpoint", "gone.pth"],
    "gone.npy": ["--data-file-noisy", "gone.npy"],
}


def test_bad_usage_of_sample(capsys):
    train.main([*TINY, "--epochs", "1"])
    before = sorted(os.listdir("."))
    for part, argv in BAD_SAMPLE.items():
        assert part in fails(sample.main, ["--num-steps", "2", *argv], 2, capsys)
    assert sorted(os.listdir(".")) == before


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
            storage.write_array(path, values, {**metadata, "split": split, "quantity": quantity})
    return folder


@pytest.mark.parametrize("sde", sde_utils.SDES)
def test_joint_posterior_with_every_solver(sde, pairs, capsys):
    train.main([*TINY, *JOINT, "--sde-type", sde, "--epochs", "2"])
    methods = {method: ["--method", method] for method in solvers.SOLVERS}
    methods |= {name: ["--method", "ode", "--ode-solver", name] for name in solvers.ODE_SOLVERS}
    for method, flags in methods.items():
        extra = [*flags, "--out-dir", method, "--num-draws", "7"]
        sample.main([*POSTERIOR, *extra, "--plot-trajectories", "--trajectory-index", "3"])
        draws = storage.load_table(f"{method}/posterior_draws.npy", 3).values
        r = storage.load_table(f"{method}/r_draws.npy", 2).values
        assert draws.shape == (30, 7, 6) and r.shape == (30, 7)
        assert r.min() >= 0 and r.max() <= 0.01
        mean = storage.load_spectra(f"{method}/denoised.npy").values
        np.testing.assert_allclose(mean, draws.mean(1))
        std = storage.load_spectra(f"{method}/posterior_std.npy").values
        np.testing.assert_allclose(std, draws.std(1))
        quantiles = storage.load_table(f"{method}/posterior_quantiles.npy", 3).values
        np.testing.assert_allclose(quantiles[:, 1], np.median(draws, 1))
        states = storage.read_npy(f"{method}/trajectory.npy")
        assert states.shape == (6, 8)
        out = capsys.readouterr().out
        assert "95 % upper limit" in out
        report = storage.read_json(f"{method}/metrics.json")
        assert report["r"]["median"] == pytest.approx(np.median(r[3]))


def test_a_model_of_another_sky_says_so(pairs, capsys):
    """The sky of training travels with the model; each key that differs is told."""
    skies = ({"a_lens": 1.0, "foregrounds": ["gaussian"]}, {"a_lens": 1.0, "foregrounds": ["d1"]})
    for name in ("dl_train", "dl_train_noisy", "r_train"):
        metadata = storage.read_json(f"data/{name}_r0-0.01.json")
        del metadata[storage.SEAL]
        files.write_json(f"data/{name}_r0-0.01.json", {**metadata, **skies[0]})
    train.main([*TINY, *JOINT, "--epochs", "1"])
    for sky, told in ((skies[1], 1), (skies[0], 0), ({}, 0)):
        metadata = storage.read_json("data/dl_noisy_r0-0.01.json")
        metadata.pop(storage.SEAL, None)
        files.write_json("data/dl_noisy_r0-0.01.json", {**metadata, **sky})
        if not sky:
            os.unlink("data/dl_noisy_r0-0.01.json")
        capsys.readouterr()
        sample.main([*POSTERIOR, "--num-draws", "2"])
        words = "trained on foregrounds gaussian, these observations have d1; r may be biased"
        err = capsys.readouterr().err
        assert err.count(words) == told and err.count("may be biased") == told
        assert storage.read_json("denoised.json")["prior"]["sky"] == skies[0]
    # one that has seen no observation knows no sky of theirs
    train.main([*TINY, *JOINT[:2], "--epochs", "1"])
    sample.main(POSTERIOR)
    assert storage.read_json("denoised.json")["prior"]["sky"] == {}


def test_posterior_at_one_r_and_what_it_says_of_another(capsys):
    train.main([*TINY, "--epochs", "1", "--cond-file", "data/dl_train_noisy_r0.001.npy"])
    sample.main([*DENOISE, "--num-steps", "3", "--num-draws", "5"])
    assert storage.read_npy("posterior_draws.npy", 3).shape == (300, 5, 6)
    assert not os.path.exists("r_draws.npy")
    _, observed = draw(50, 3)
    storage.write_array("other.npy", observed, {"r": 0.01})
    sample.main(["--data-file-noisy", "other.npy", "--num-steps", "3", "--num-draws", "2"])
    assert "returns that r, whatever the sky" in capsys.readouterr().err


def test_posterior_draws_depend_on_seed_and_observation_alone(pairs):
    """The same rows whatever follows them, and other ones for another seed."""
    train.main([*TINY, *JOINT, "--epochs", "1"])
    results = []
    for seed in ("0", "0", "1"):
        sample.main([*POSTERIOR, "--num-draws", "50", "--seed", seed])
        results.append(np.load("posterior_draws.npy"))
    assert np.array_equal(results[0], results[1]) and not (results[0] == results[2]).all()


BAD_JOINT = {
    "--param-file needs": [*JOINT[:2], *JOINT[4:]],
    "match row for row": [*JOINT[:3], "data/dl_noisy_r0-0.01.npy"],
    "--cond-file data/dl_train_r0-0.01.npy: holds primordial": [*JOINT[:3], JOINT[1]],
    "not of the same skies": [*JOINT[:3], "data/dl_train_noisy_r0.001.npy"],
    "has shape": [*JOINT[:5], "data/dl_train_r0-0.01.npy"],
    "gone.npy": [*JOINT[:3], "gone.npy"],
}


def test_bad_pairs_of_train(pairs, capsys):
    for part, argv in BAD_JOINT.items():
        assert part in fails(train.main, [*TINY, *argv], 2, capsys)
    assert not os.path.exists("model.pth")


def test_bad_usage_of_conditional_checkpoints(pairs, capsys):
    train.main([*TINY, *JOINT, "--epochs", "1"])
    before = sorted(os.listdir("."))
    for part, argv in {
        "is conditional": ["--num-samples", "5"],
        "--t-start": [*POSTERIOR, "--t-start", "0.5"],
        "--num-draws": [*POSTERIOR, "--num-draws", "0"],
    }.items():
        assert part in fails(sample.main, argv, 2, capsys)
    assert sorted(os.listdir(".")) == before


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

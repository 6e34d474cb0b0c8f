"""Arrays of a simulator that is not ours: any parameters, any columns, both signs, no records."""

import os
import shutil

import numpy as np
import pytest

import sample
import train
from diffusion.trained import Trained
from runtime import checkpoints, jsonfiles
from runtime.errors import InputError

N, N_TEST = 400, 12
TINY = ["--hidden-dim", "16", "--embed-dim", "8", "--num-layers", "1", "--epochs", "2"]
TINY += ["--batch-size", "50", "--device", "cpu"]
PARAMETERS = ["--param", "r", "0", "0.3", "--param", "A_d", "-2", "8"]
OWN = ["--cond-file", "y.npy", "--param-file", "theta.npy", *PARAMETERS]
DRAW = ["--data-file-noisy", "y_test.npy", "--device", "cpu", "--method", "ode", "--num-steps", "3"]
DRAW += ["--num-draws", "7"]


@pytest.fixture(autouse=True)
def arrays(tmp_path, monkeypatch):
    """theta (n, 2), y (n, 5) of which a column has both signs, x (n, 3)."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    theta = rng.uniform([0, -2], [0.3, 8], (N + N_TEST, 2))
    x = rng.chisquare(9, (N + N_TEST, 3)) * (1 + theta[:, :1])
    y = theta @ rng.uniform(0.5, 1.5, (2, 5)) + rng.normal(size=(N + N_TEST, 5))
    y[:, 0] = 40 + y[:, 0] ** 2  # a column whose logarithm is taken
    for name, values in {"theta": theta, "x": x, "y": y}.items():
        np.save(f"{name}.npy", values[:N])
        np.save(f"{name}_test.npy", values[N:])


def fails(main, argv, capsys):
    """The one line with which a script refuses."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "error:" in error
    return error


def test_parameters_alone(capsys):
    train.main([*OWN, *TINY])
    trained = Trained.load("model.pth")
    assert (trained.architecture.n_ell, trained.architecture.n_cond) == (0, 5)
    assert [each.name for each in trained.parameters] == ["r", "A_d"]
    assert trained.cond_normalizer.must_be_positive().tolist() == [True, *[False] * 4]
    sample.main([*DRAW, "--out-dir", "run"])
    assert not [name for name in os.listdir("run") if "denoised" in name or "posterior" in name]
    for name, low, high in (("r", 0, 0.3), ("A_d", -2, 8)):
        draws = np.load(f"run/{name}_draws.npy")
        assert draws.shape == (N_TEST, 7) and low < draws.min() < draws.max() < high
        record = jsonfiles.read_json(f"run/{name}_draws.json")
        assert record["quantity"] == f"posterior {name}" and record["unit"] == "1"
        assert record["prior"]["parameters"] == {"r": [0, 0.3], "A_d": [-2, 8]}
    posterior = trained.posterior(np.load("y_test.npy"), num_draws=7, num_steps=3)
    assert posterior.dl is None and posterior.r is posterior.parameters["r"]
    np.testing.assert_allclose(posterior.r, np.load("run/r_draws.npy"), rtol=1e-6)
    assert trained.posterior(np.load("y_test.npy")[0], num_draws=7, num_steps=3).r.shape == (1, 7)


def test_spectra_whose_observations_are_not_aligned():
    train.main(["--data-file", "x.npy", *OWN, *TINY])
    sample.main([*DRAW, "--data-file-gt", "x_test.npy", "--out-dir", "run"])
    shapes = {name: np.load(f"run/{name}.npy").shape for name in ("denoised", "posterior_draws")}
    assert shapes == {"denoised": (N_TEST, 3), "posterior_draws": (N_TEST, 7, 3)}
    assert np.load("run/A_d_draws.npy").shape == (N_TEST, 7)


def test_one_parameter_in_one_axis():
    theta = np.load("theta.npy")
    np.save("theta.npy", theta[:, 0])
    train.main(
        ["--cond-file", "y.npy", "--param-file", "theta.npy", "--r-range", "0", "0.3", *TINY]
    )
    assert Trained.load("model.pth").data.prior.r_range == (0, 0.3)


@pytest.mark.parametrize(
    ("part", "argv"),
    {
        "nothing says what it holds": ["--cond-file", "y.npy", "--param-file", "theta.npy"],
        "has 2 columns; needed is one for each": [*OWN[:4], "--r-range", "0", "1"],
        "A_d takes values from": [*OWN[:-2], "0", "8"],
        "a name stands there twice": [*OWN[:8], "--param", "r", "-2", "8"],
        "is no name of a parameter": [*OWN[:8], "--param", "A d", "-2", "8"],
        "8 to -2 is no range": [*OWN[:8], "--param", "A_d", "8", "-2"],
        "name columns of --param-file": ["--cond-file", "y.npy", *PARAMETERS],
        "short for": [*OWN, "--r-range", "0", "1"],
        "match row for row": [*OWN, "--data-file", "x_test.npy"],
        "not above 0": ["--data-file", "y.npy"],
        "name another --out": [*OWN, "--init-from", "model.pth"],
        "other.pth: cannot be read": [*OWN, "--init-from", "other.pth"],
    }.items(),
)
def test_what_does_not_fit_is_refused(part, argv, capsys):
    assert part in fails(train.main, [*argv, *TINY], capsys)
    assert not os.path.exists("model.pth")


def test_observations_that_do_not_fit_are_refused(capsys):
    train.main([*OWN, *TINY])
    y = np.load("y_test.npy")
    np.save("y_test.npy", y[:, :4])
    assert "4 columns, the model" in fails(sample.main, DRAW, capsys)
    np.save("y_test.npy", y * [-1, 1, 1, 1, 1])
    assert "in row 0, column 0" in fails(sample.main, DRAW, capsys)
    np.save("y_test.npy", y * 1e6)
    assert "--allow-outliers" in fails(sample.main, DRAW, capsys)
    sample.main([*DRAW, "--allow-outliers"])
    with pytest.raises(InputError, match="needed is"):
        Trained.load("model.pth").posterior(y[:, :4])


def test_log_likelihood_of_parameters(capsys):
    train.main([*OWN, *TINY])
    asked = ["--log-likelihood", "--data-file-noisy", "y_test.npy", "--device", "cpu"]
    sample.main([*asked, "--param-file-gt", "theta_test.npy", "--out-dir", "run"])
    assert np.load("run/log_likelihood.npy").shape == (N_TEST,)
    assert "--param-file-gt" in fails(sample.main, asked, capsys)


def test_init_from_goes_on_with_weights(capsys):
    train.main([*OWN, *TINY, "--out", "first.pth"])
    more = [*OWN, *TINY, "--out", "second.pth", "--init-from", "first.pth"]
    train.main([*more, "--lr", "1e-30"])
    first, second = (checkpoints.read(f"{name}.pth") for name in ("first", "second"))
    for name, weights in first["ema_weights"].items():
        np.testing.assert_allclose(second["weights"][name], weights, atol=1e-6)
    error = fails(train.main, [*more, "--hidden-dim", "32"], capsys)
    assert "first.pth" in error and "hidden_dim 16" in error and "hidden_dim 32" in error
    error = fails(train.main, [*more, "--sde-type", "VP"], capsys)
    assert "VESDE" in error
    capsys.readouterr()
    train.main([*more, "--lr", "1e-30", "--resume"])
    assert "is finished" in capsys.readouterr().err
    error = fails(train.main, [*more[:-2], "--lr", "1e-30", "--resume"], capsys)
    assert "was trained with --init-from, and here is none" in error


def test_resume_names_both_values(capsys):
    train.main([*OWN, *TINY])
    assert "epochs 2, this command says 3" in fails(
        train.main, [*OWN, *TINY, "--epochs", "3", "--resume"], capsys
    )
    assert "hidden_dim 16" in fails(
        train.main, [*OWN, *TINY, "--hidden-dim", "32", "--resume"], capsys
    )
    error = fails(train.main, [*OWN, *TINY, "--sde-type", "VP", "--resume"], capsys)
    assert "sde name VE, this command says name VP" in error
    error = fails(train.main, [*OWN, *TINY, "--sigma-min", "0.2", "--resume"], capsys)
    assert "sde parameters sigma_min 0.1, this command says parameters sigma_min 0.2" in error
    shutil.copy("model.pth", "other.pth")
    error = fails(train.main, [*OWN, *TINY, "--init-from", "other.pth", "--resume"], capsys)
    assert "was trained without --init-from" in error
    y = np.load("y.npy")
    np.save("y.npy", y[::-1])
    error = fails(train.main, [*OWN, *TINY, "--resume"], capsys)
    assert "was trained with another content of --cond-file" in error
    np.save("y.npy", y)
    other = [word if word != "8" else "9" for word in OWN]
    assert "A_d" in fails(train.main, [*other, *TINY, "--resume"], capsys)


def test_resume_names_the_file_that_changed(capsys):
    train.main([*OWN, *TINY])
    np.save("y.npy", np.load("y.npy")[::-1])
    error = fails(train.main, [*OWN, *TINY, "--resume"], capsys)
    assert "another content of --cond-file" in error and "sha256" not in error


def test_a_bad_command_line_is_one_line(capsys):
    for argv in (["--param", "r", "1", "0"], ["--epochs", "none"], ["--unknown"], ["--param", "r"]):
        with pytest.raises(SystemExit, match="2"):
            train.main([*OWN, *argv])
        out, error = capsys.readouterr()
        assert not out and error.count("\n") == 1 and ": error: " in error


@pytest.mark.parametrize("size", [1e-300, 1e250])
def test_a_column_of_no_size_is_refused(size, capsys):
    y = np.load("y.npy")
    y[:, 3] = (y[:, 3] - y[:, 3].mean()) * size
    np.save("y.npy", y)
    assert "column 3 takes both signs" in fails(train.main, [*OWN, *TINY], capsys)


def test_a_parameter_that_does_not_vary_is_refused(capsys):
    theta = np.load("theta.npy")
    theta[:, 1] = 5
    np.save("theta.npy", theta)
    assert "A_d is 5 in each row" in fails(train.main, [*OWN, *TINY], capsys)


def test_an_observation_of_other_columns_is_left_out_of_the_figure(capsys):
    train.main(["--data-file", "x.npy", *OWN, *TINY])
    sample.main([*DRAW, "--data-file-gt", "x_test.npy", "--out-dir", "run"])
    out, error = capsys.readouterr()
    assert "could not be drawn" not in error and os.path.exists("run/examples.png")
    assert "ell = 2-4, denoised" in out


def test_chains_that_stay_are_named(capsys):
    train.main([*OWN, *TINY])
    sample.main([*DRAW, "--out-dir", "run", "--chains", "run/first"])
    assert "chains of an earlier run" not in capsys.readouterr().err
    sample.main([*DRAW, "--out-dir", "run", "--chains", "run/second", "--seed", "1"])
    assert "earlier run stay, for you named them: run/first\n" in capsys.readouterr().err
    assert os.path.exists("run/first.txt") and os.path.exists("run/second.txt")


def test_a_start_that_is_no_covariance_is_refused(capsys):
    train.main([*OWN, *TINY])
    content = checkpoints.read("model.pth")
    content["ema_weights"]["start.variances"][0] = -1.0
    checkpoints.save("model.pth", content)
    assert "start.variances is not above 0" in fails(sample.main, DRAW, capsys)

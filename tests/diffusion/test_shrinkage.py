"""The yardstick is the best linear denoiser: no network that learnt nothing, or less, beats it."""

import dataclasses

import numpy as np
import pytest
import torch

import model
import sde_utils
import train
from diffusion import baseline, shrinkage
from diffusion.dataset import Rows
from diffusion.trained import Trained
from runtime.records import Record
from runtime.tables import write_array

SDE = sde_utils.VESDE()
KINDS = ("unconditional", "conditional", "joint")
SIZES = [(14, n) for n in (10, 100, 1000, 10000)] + [(126, 1000)]  # NSIDE 8 and 64


def spectra(kind, n_ell, n, seed=0):
    """(x, y) of skies with noise of five times the signal at ell = 2, falling as nature has it."""
    rng = np.random.default_rng(seed)
    nu = 2 * np.arange(2, 2 + n_ell) + 1
    r = rng.uniform(0.01, 1, (n, 1)) if kind == "joint" else np.ones((n, 1))
    x = r * rng.chisquare(nu, (n, n_ell)) / nu
    y = x + 0.05 * nu**2 * rng.chisquare(nu, (n, n_ell)) / nu
    columns = [np.log(x / r), *([np.sqrt(12) * (r - 0.505)] if kind == "joint" else [])]
    return np.hstack(columns), np.log(y) if kind != "unconditional" else y[:, :0]


def normalised(kind, n_ell, n, seed=0):
    """(training rows, held-out rows), as train.py splits and normalises."""
    x, y = spectra(kind, n_ell, n, seed)
    values, num = np.hstack([x, y]), max(1, round(0.05 * n))
    train_rows = values[num:]
    values = (values - train_rows.mean(0)) / train_rows.std(0)
    rows = Rows(torch.tensor(values, dtype=torch.float32), x.shape[1], torch.device("cpu"))
    return tuple(dataclasses.replace(rows, values=v) for v in rows.values.split([num, n - num]))[
        ::-1
    ]


def verdict(network, linear, held_out):
    return baseline.gaussian_verdict(
        baseline.loss_by_level(network, linear, list(held_out.blocks()), 0)
    )


def untrained(kind, n_ell):
    torch.manual_seed(0)
    joint = int(kind == "joint")
    n_cond = 0 if kind == "unconditional" else n_ell
    sizes = model.Architecture(
        n_ell, n_cond=n_cond, n_param=joint, hidden_dim=16, embed_dim=8, num_layers=1
    )
    return model.ScoreNet1D(SDE, sizes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_ell", "n"), SIZES)
def test_not_learning_is_no_sign_of_learning(kind, n_ell, n):
    train_rows, held_out = normalised(kind, n_ell, n)
    linear = shrinkage.best_linear(SDE, train_rows, held_out)
    found = verdict(untrained(kind, n_ell), linear, held_out)
    expected = "too few to tell" if n * 0.05 < baseline.MIN_ROWS else "no sign"
    assert expected in found and ": it learnt more" not in found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [500, 1000, 10000])
def test_a_better_fitted_gaussian_is_no_sign_of_more(kind, n):
    """What 20,000 other rows know of the covariance is not held against the yardstick."""
    train_rows, held_out = normalised(kind, 14, n)
    linear = shrinkage.best_linear(SDE, train_rows, held_out)
    many, _ = normalised(kind, 14, 20_000, seed=1)
    best = baseline.LinearDenoiser(SDE, baseline.second_moments(many.blocks()), many.n_dim)
    assert ": it learnt more" not in verdict(best, linear, held_out)


@pytest.mark.parametrize("n", [1000, 10000])
def test_learning_more_is_seen(n):
    """Rows at two points: the exact denoiser beats any linear one."""
    x = torch.randn(n, 14, generator=torch.Generator().manual_seed(0)).sign()
    rows = Rows(x, 14, torch.device("cpu"))
    held_out, train_rows = (
        dataclasses.replace(rows, values=v) for v in x.split([n // 20, n - n // 20])
    )

    def exact(x, t, y=None):
        denoised = torch.tanh(x / SDE.sigma(t) ** 2)
        z = (x - denoised) / SDE.sigma(t)
        return (z - SDE.sigma(t) * denoised) / sde_utils.prior_std(SDE, t)

    linear = shrinkage.best_linear(SDE, train_rows, held_out)
    found = verdict(exact, linear, held_out)
    assert "% below" in found and "it learnt more than a Gaussian" in found
    worse = verdict(lambda x, t, y=None: 2 * exact(x, t) + 0.1, linear, held_out)
    assert "% above" in worse and "no sign" in worse


@pytest.mark.parametrize("n", [30, 200, 20_000])
def test_the_yardstick_is_no_worse_than_either_end(n):
    """Neither than the moments as they are, which it becomes, nor than no correlations."""
    train_rows, held_out = normalised("conditional", 14, n)
    linear = shrinkage.best_linear(SDE, train_rows, held_out)
    target = baseline.second_moments(held_out.blocks())
    times = baseline.level_times(SDE, torch.ones(()))
    full = baseline.second_moments(train_rows.blocks())
    ends = [
        float(baseline.LinearDenoiser(SDE, moments, 14).loss(target, times).mean())
        for moments in (full, torch.eye(28, dtype=torch.float64))
    ]
    found = float(linear.loss(target, times).mean())
    assert found <= min(ends) * (1 + 1e-6)  # sums of halves, and float32
    assert linear.cost > 0
    if n == 20_000:
        assert found == pytest.approx(ends[0], rel=1e-3)


def test_observations_may_be_collinear_or_more_than_rows():
    train_rows, held_out = normalised("conditional", 30, 40)
    twice = [
        dataclasses.replace(rows, values=torch.cat([rows.values, rows.values[:, 30:]], 1))
        for rows in (train_rows, held_out)
    ]
    linear = shrinkage.best_linear(SDE, *twice)
    assert torch.isfinite(linear.regression).all() and linear.regression.abs().max() < 1
    times = baseline.level_times(SDE, torch.ones(()))
    assert linear.loss(baseline.second_moments(twice[1].blocks()), times).max() < 1.01


def test_shrinkage_has_its_ends():
    rows = [[1.0, 0.3, -0.05], [0.3, 1.0, 0.0], [-0.05, 0.0, 1.2]]
    moments = torch.tensor(rows, dtype=torch.float64)
    assert torch.equal(shrinkage.Shrinkage(0, 0)(moments, 100), moments)
    assert torch.equal(shrinkage.Shrinkage(0, 1)(moments, 100), torch.eye(3).double())
    soft = shrinkage.Shrinkage(1.0, 0)(moments, 100)
    assert soft[0, 1] == pytest.approx(0.2) and soft[0, 2] == 0 and soft[2, 2] == 1.2
    half = shrinkage.Shrinkage(0, 0.5)(moments, 100)
    assert half[0, 1] == pytest.approx(0.15) and half[2, 2] == pytest.approx(1.1)


def test_errors_need_rows_and_levels_share_theirs():
    train_rows, held_out = normalised("joint", 14, 1000)
    linear = shrinkage.best_linear(SDE, train_rows, held_out)
    blocks = [(x[:1], y[:1]) for x, y in held_out.blocks()]
    one = baseline.loss_by_level(untrained("joint", 14), linear, blocks, 0)
    assert one.network_error is None and one.error is None
    assert baseline.gaussian_verdict(one).startswith("n = 1 held-out rows: too few")
    assert baseline.LossLevels.from_json(one.to_json()) == one
    many = baseline.loss_by_level(untrained("joint", 14), linear, list(held_out.blocks()), 0)
    independent = np.sqrt(np.square(many.network_error).sum()) / baseline.NUM_LEVELS
    assert independent < many.error <= np.mean(many.network_error)
    # a checkpoint of an older version has none of these entries: its levels err together at worst
    names = ("noise_to_signal", "network", "network_error", "linear")
    old = baseline.LossLevels.from_json({name: many.to_json()[name] for name in names})
    assert "no sign" in baseline.gaussian_verdict(old)


@pytest.mark.parametrize("rows", [400, 60])
def test_train_says_so(rows, tmp_path, monkeypatch, capsys):
    """From the command line, with a learning rate that moves no weight."""
    monkeypatch.chdir(tmp_path)
    x = np.exp(spectra("unconditional", 6, rows)[0])
    write_array("x.npy", x, Record("primordial BB"))
    argv = "--data-file x.npy --hidden-dim 16 --embed-dim 8 --num-layers 1 --epochs 2 --lr 1e-30"
    train.main(argv.split())
    out = capsys.readouterr().out
    assert ("no sign" if rows == 400 else "n = 3 held-out rows: too few") in out
    levels = Trained.load("model.pth").training["levels"]
    assert levels["rows"] == rows // 20

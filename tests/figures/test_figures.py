"""Figures of arrays: what is unknown is left out, and runs can be told apart."""

import subprocess
import sys

import numpy as np

from figures import evaluation, spectra, studies, style, training, trajectories

ELL = np.arange(2, 8)
S = 1e-5 / ELL


def labels(axis):
    return axis.get_legend_handles_labels()[1]


def test_the_palette_tells_runs_apart():
    names = [f"run {k}" for k in range(7)]
    lines = style.run_styles(names)
    assert len({line["color"] for line in lines.values()}) == len(names)
    assert len({(line["color"], line["ls"]) for line in style.run_styles(names * 4).values()}) == 7
    for table in (spectra.PARTS.values(), studies.SOLVERS):
        assert len({(line["color"], str(line["ls"])) for line in table}) == len(table)


def test_an_import_needs_no_matplotlib():
    modules = "style, spectra, training, trajectories, evaluation, studies"
    code = f"import sys\nfrom figures import {modules}\nassert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_budget_draws_negative_parts_by_their_size():
    left = {"lensing": S, "noise": 0 * S, "ILC bias": -S}
    (axis,) = spectra.budget(ELL, left, {0.001: S}).axes
    assert labels(axis)[:3] == ["tensor, $r = 0.001$", "lensing", "$-$ILC bias"]
    drawn = axis.get_lines()[2].get_ydata()
    np.testing.assert_array_equal(drawn, S)


def test_few_multipoles_have_whole_ticks():
    ell = np.arange(2, 5)
    (axis,) = spectra.denoised_example(spectra.Example(ell, None, S[:3], None), S[:3], None).axes
    assert labels(axis) == ["truth", "output"]
    assert set(axis.get_xticks()) <= set(range(10))


def test_few_generated_spectra_have_no_quantiles():
    for n, expected in ((3, "generated, all"), (40, "generated: 16, 50, 84 %")):
        right = spectra.generated_examples(ELL, S * np.ones((n, 1)), None).axes[1]
        assert labels(right) == [expected]


def test_examples_leave_out_what_is_unknown():
    bare = spectra.Example(ELL, 2 * S, None, None)
    (axis,) = spectra.denoised_example(bare, S, None).axes
    assert labels(axis) == ["observation", "output"]
    whole = spectra.Example(ELL, 2 * S, S, S)
    correlations = spectra.Correlations(0.5 + 0 * S, 0.4 + 0 * S, None)
    left, right = spectra.denoised_example(whole, S, correlations).axes
    assert {"truth", "cosmic variance, 68 %", "primordial theory"} < set(labels(left))
    assert labels(right) == ["observation", "output"]
    null = spectra.Example(ELL, 2 * S, 0 * S, 0 * S)  # no logarithm
    quantiles = np.stack([0.5 * S, S, 2 * S])
    (axis,) = spectra.posterior_example(null, quantiles, None, None).axes
    assert labels(axis) == ["posterior, 68 %", "posterior median", "observation"]
    draws = np.random.default_rng(0).random(50)
    _, right = spectra.posterior_example(whole, quantiles, correlations, draws).axes
    assert "95 % upper limit" in labels(right)  # r rather than correlations


def result(name, **curves):
    bars = evaluation.Errorbars(0 * S + 0.5, 0 * S + 0.1)
    curves = {"pit": None, "sbc": None, "tarp": None, **curves}
    mse = evaluation.Errorbars(0.3, 0.01), evaluation.Errorbars(0.6, 0.01)
    return evaluation.RunResult(name, bars, bars, *mse, **curves)


def test_runs_side_by_side():
    u = np.linspace(0.01, 0.99, 99)
    runs = [result("a", pit=u, tarp=u), result("b", pit=u)]
    assert evaluation.calibration([result("a")]) is None
    first, second = evaluation.calibration(runs).axes
    assert labels(first) == ["a", "b"] and labels(second) == ["a"]
    assert labels(evaluation.sharpness(ELL, runs, None).axes[0]) == ["a", "b"]
    optimum = evaluation.Optimum(0 * S + 0.6, 0 * S + 0.6)
    assert "exact posterior mean" in labels(evaluation.sharpness(ELL, runs, optimum).axes[0])
    (axis,) = evaluation.controls(runs, {"prior mean": 0.4, "raw observation": 9.0}).axes
    assert "prior mean" in labels(axis) and "raw observation" not in labels(axis)


def test_draws_of_r():
    rng = np.random.default_rng(0)
    truth, draws = rng.random(30), rng.random((30, 40))
    row = {"rms_error": 0.1, "rms_error_error": 0.01, "sigma": 0.1, "sigma_error": 0.01}
    bins = [evaluation.SigmaBin(r=r, **row, exact=None, fisher=0.1) for r in (0.2, 0.8)]
    r = evaluation.RDraws(draws, truth, (0.0, 1.0), None, None)
    left, right = evaluation.r_overview(r, bins, "trained elsewhere").axes
    assert labels(left) == ["truth", "median, 68 %"]
    assert "Fisher limit" in labels(right) and "exact posterior" not in labels(right)
    limits = {"exact": 0.1, "fisher": 0.09, "spectrum": 0.1, "rule_of_thumb": 0.05}
    masked = [evaluation.SigmaBin(r=r, **row, **limits) for r in (0.2, 0.8)]
    named = labels(evaluation.r_overview(r, masked).axes[1])
    assert "Fisher limit" not in named and "Fisher limit of the map" in named
    assert evaluation.RULE_OF_THUMB in named and "exact posterior given the map" in named
    null = evaluation.RDraws(draws, 0 * truth, (0.0, 1.0), None, None)
    assert "95 % upper limit" in labels(evaluation.r_overview(null, bins[:1]).axes[0])
    spectrum = evaluation.SpectrumDraws(ELL, S * rng.random((40, 6)), None, S, S)
    left, right = evaluation.posterior(r, spectrum, 3).axes
    assert "exact" not in labels(left) and "exact, 68 %" not in labels(right)
    grid = np.linspace(0, 1, 11)
    exact = evaluation.RDraws(draws, truth, (0.0, 1.0), grid, np.ones((30, 11)))
    assert "exact" in labels(evaluation.posterior(exact, spectrum, 3).axes[0])


def test_a_training():
    history = {"train": [2.0, 1.0], "validation": [1.5, 0.9], "linear": [1.0, 1.0]}
    levels = {"noise_to_signal": [0.1, 1.0], "network": [0.9, 0.8], "network_error": [0.1, 0.1]}
    left, right = training.training_loss(history, levels | {"linear": [1.0, 1.0]}).axes
    assert "best linear denoiser, held-out rows" in labels(left) and len(labels(right)) == 2


def test_trajectories_side_by_side():
    """Both panels say the same of the observation, and stop where the process does."""
    ratios = np.array([10.0, 1, 0.01, 0])
    states = [np.full((4, 2), level) for level in (4.0, -2.0)]
    without, given = (trajectories.Trajectory(ratios, each) for each in states)
    band = np.array([[-0.5, -1], [0.5, 1]])
    marks = trajectories.Marks(np.array([2, 10]), np.array([0.2, 9]), np.array([0.1, 0]), band)
    left, right = trajectories.side_by_side(without, given, marks).axes
    assert labels(left) == labels(right)
    assert labels(left)[:2] == ["$\\ell = 2$", "$\\ell = 10$"]
    low, high = left.get_ylim()
    assert low < -2 and high > 9 and right.get_ylim() == (low, high)
    for axis, level in ((left, 4.0), (right, -2.0)):
        start, end = axis.get_xlim()
        assert start > 10 and end < 0.01  # noise falls to the right
        x, y = axis.get_lines()[0].get_data()
        assert min(x) == 0.01 and set(y) == {level}

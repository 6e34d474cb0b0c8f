"""Verdicts on outputs whose worth is known, and errors by definition."""

import numpy as np
import pytest
import torch
from test_pipeline import NOISE, SIGNAL, draw

from checks import truth as truth_checks
from diffusion import normalizers
from runtime import tables
from runtime.priors import Prior
from runtime.records import Record


def test_verdict_tells_an_echo_from_a_denoiser():
    truth, observed = draw(2000, 6)
    limit = SIGNAL / (SIGNAL + NOISE)
    fresh, _ = draw(2000, 7)
    echo = truth_checks.verdict(truth_checks.correlation(fresh, truth), limit, 2000, -1.0)
    assert "no more information than the prior" in echo
    shuffled = truth_checks.verdict(
        truth_checks.correlation(np.roll(observed, 1, 0), truth), limit, 2000, -1.0
    )
    assert "no more information than the prior" in shuffled
    corr = truth_checks.correlation(observed, truth)
    for known in (limit, None):
        assert "of the prior mean's" in truth_checks.verdict(corr, known, 2000, 0.5)
        assert "worse than the prior mean" in truth_checks.verdict(corr, known, 2000, -0.5)
    assert "holds no information" in truth_checks.verdict(limit * 0, limit * 1e-4, 2000, -1.0)


def test_metrics_of_the_prior_mean_and_of_a_fresh_draw():
    truth, _ = draw(20000, 8)
    fresh, _ = draw(20000, 9)
    outputs = {"mean": SIGNAL, "fresh": fresh, "same": truth}
    errors = {name: np.square(dl - truth).mean(0) for name, dl in outputs.items()}
    table = truth_checks.error_table(errors, {}, SIGNAL)
    variance = np.mean(2 / (2 * np.arange(2, 8) + 1))
    assert table["mean"].mse_dl_over_signal_squared == pytest.approx(variance, rel=0.05)
    assert table["fresh"].mse_dl_over_signal_squared == pytest.approx(2 * variance, rel=0.05)
    assert table["same"].mse_dl == 0 and table["same"].mse_normalised is None


def test_chunks_of_rows_give_what_all_rows_give(monkeypatch):
    """Errors and correlations by definition, whatever fits in memory."""
    truth, observed = draw(100, 3)
    output, _ = draw(100, 4)
    normalizer = normalizers.Normalizer.fit(torch.from_numpy(truth))

    def normalize(dl):
        return normalizer.normalize(torch.from_numpy(dl)).double().numpy()

    trained_on = Record(prior=Prior(mean_dl=SIGNAL))
    pair = (tables.Table("y", observed, Record()), tables.Table("x", truth, Record()))
    monkeypatch.setattr(truth_checks, "CHUNK_VALUES", 42)
    report = truth_checks.compare_with_truth(*pair, output, trained_on, normalize)
    previous = np.roll(truth, 1, 0)
    x, x_previous = (normalizer.normalize(torch.from_numpy(v)).numpy() for v in (truth, previous))
    mse = report.mse
    assert mse["denoised"].mse_dl == pytest.approx(np.square(output - truth).mean())
    assert mse["prior_mean"].mse_dl == pytest.approx(np.square(SIGNAL - truth).mean())
    assert mse["prior_draw"].mse_dl == pytest.approx(np.square(previous - truth).mean())
    assert mse["prior_mean"].mse_normalised == pytest.approx(np.square(x).mean(), rel=1e-5)
    expected = np.square(x - x_previous).mean()
    assert mse["prior_draw"].mse_normalised == pytest.approx(expected, rel=1e-5)
    correlations = (
        truth_checks.correlation(output, truth),
        truth_checks.correlation(observed, truth),
    )
    assert report.correlation.denoised == pytest.approx(correlations[0].tolist())
    assert report.correlation.observation == pytest.approx(correlations[1].tolist())

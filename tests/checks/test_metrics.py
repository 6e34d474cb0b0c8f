"""What metrics.py says of outputs whose worth is known."""

import numpy as np
import pytest
import torch
from test_pipeline import NOISE, SIGNAL, draw

from checks import metrics
from diffusion import normalizers
from runtime import tables
from runtime.records import Record


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
    truth, _ = draw(20000, 8)
    fresh, _ = draw(20000, 9)
    outputs = {"mean": SIGNAL, "fresh": fresh, "same": truth}
    errors = {name: np.square(dl - truth).mean(0) for name, dl in outputs.items()}
    table = metrics.error_table(errors, {}, SIGNAL)
    variance = np.mean(2 / (2 * np.arange(2, 8) + 1))
    assert table["mean"]["mse_dl_over_signal_squared"] == pytest.approx(variance, rel=0.05)
    assert table["fresh"]["mse_dl_over_signal_squared"] == pytest.approx(2 * variance, rel=0.05)
    assert table["same"]["mse_dl"] == 0 and table["same"]["mse_normalised"] is None


def test_chunks_of_rows_give_what_all_rows_give(monkeypatch):
    """Errors and correlations by definition, whatever fits in memory."""
    truth, observed = draw(100, 3)
    output, _ = draw(100, 4)
    normalizer = normalizers.Normalizer.fit(torch.from_numpy(truth))
    checkpoint = {"normalizer": normalizer, "cond_normalizer": None}
    checkpoint["data"] = {"mean_dl": SIGNAL.tolist()}
    pair = (tables.Table("y", observed, Record()), tables.Table("x", truth, Record()))
    monkeypatch.setattr(metrics, "CHUNK_VALUES", 42)
    report = metrics.compare_with_truth(*pair, output, checkpoint)
    previous = np.roll(truth, 1, 0)
    x, x_previous = (normalizer.normalize(torch.from_numpy(v)).numpy() for v in (truth, previous))
    mse = report["mse"]
    assert mse["denoised"]["mse_dl"] == pytest.approx(np.square(output - truth).mean())
    assert mse["prior_mean"]["mse_dl"] == pytest.approx(np.square(SIGNAL - truth).mean())
    assert mse["prior_draw"]["mse_dl"] == pytest.approx(np.square(previous - truth).mean())
    assert mse["prior_mean"]["mse_normalised"] == pytest.approx(np.square(x).mean(), rel=1e-5)
    expected = np.square(x - x_previous).mean()
    assert mse["prior_draw"]["mse_normalised"] == pytest.approx(expected, rel=1e-5)
    correlations = metrics.correlation(output, truth), metrics.correlation(observed, truth)
    assert report["correlation"]["denoised"] == pytest.approx(correlations[0].tolist())
    assert report["correlation"]["observation"] == pytest.approx(correlations[1].tolist())


def test_the_law_is_tested_on_rows_that_the_report_counts(monkeypatch):
    truth, _ = draw(300, 5)
    metadata = {"quantity": "primordial BB", "r": 0.001, "dl_signal": SIGNAL.tolist()}
    monkeypatch.setattr(metrics, "LAW_VALUES", 6 * 200)
    report = metrics.compare_with_law(truth, metadata)
    assert report["ks_rows"] == 200 and report == metrics.compare_with_law(truth[:200], metadata)

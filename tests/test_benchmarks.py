"""The benchmarks run; what they print is not judged here."""

import sde_utils
from benchmarks import cleaning, draws, overhead


def test_overhead_runs(monkeypatch):
    for name, value in {"REPEATS": 1, "ROWS": 200, "EPOCHS": 1}.items():
        monkeypatch.setattr(overhead, name, value)
    assert overhead.train(sde_utils.VESDE()) > 0
    assert overhead.sampling(sde_utils.VESDE(), "pc", num_steps=2) > 0


def test_draws_runs(monkeypatch, capsys):
    monkeypatch.setattr(draws, "NUM_PAIRS", 10)
    draws.main()
    assert capsys.readouterr().out


def test_cleaning_runs(monkeypatch, capsys):
    monkeypatch.setattr(cleaning, "NUM_SKIES", 10)
    cleaning.main()
    assert capsys.readouterr().out.count("times as long") == 2

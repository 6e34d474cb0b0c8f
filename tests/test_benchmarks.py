"""The benchmarks run; what they print is not judged here."""

import dataclasses

import pytest

import sde_utils
from benchmarks import cleaning, draws, overhead, results


def test_overhead_runs(monkeypatch):
    for name, value in {"REPEATS": 1, "ROWS": 200, "EPOCHS": 1}.items():
        monkeypatch.setattr(overhead, name, value)
    assert overhead.training(sde_utils.VESDE()) > 0
    assert overhead.sampling(sde_utils.VESDE(), "pc", num_steps=2) > 0


def test_draws_runs(monkeypatch, capsys):
    monkeypatch.setattr(draws, "NUM_PAIRS", 10)
    draws.main()
    assert capsys.readouterr().out


def test_cleaning_runs(monkeypatch, capsys):
    monkeypatch.setattr(cleaning, "NUM_SKIES", 10)
    cleaning.main()
    assert capsys.readouterr().out.count("times as long") == 2


def test_compare_runs(monkeypatch, tmp_path, capsys):
    """Two problems, all tools: numbers of every sampler, kept, and one section of the document."""
    for module in ("score_models", "azula", "sbi"):
        pytest.importorskip(module, reason="pip install --no-deps -r benchmarks/requirements.txt")
    from benchmarks import compare, tools

    small = {"num_train": 300, "hidden_dim": 8, "num_layers": 1, "batch_size": 100, "epochs": 2}
    draws = {"num_test": 20, "num_samples": 320, "num_draws": 16}
    generate = {"num_test": 300, "num_samples": 300}
    for name, problem in compare.PROBLEMS.items():
        own = draws if problem.num_draws else generate
        monkeypatch.setitem(compare.PROBLEMS, name, dataclasses.replace(problem, **small, **own))
    monkeypatch.setattr(tools, "EQUAL_EVALUATIONS", (30,))
    monkeypatch.setattr(tools, "README_STEPS", 40)
    monkeypatch.setattr(results, "PATH", str(tmp_path / "RESULTS.md"))
    out_dir = str(tmp_path / "compare")
    argv = ["--problems", "correlated", "joint", "--seeds", "3", "--out-dir", out_dir]
    compare.main(argv)
    first = (tmp_path / "RESULTS.md").read_text()
    rows = [line for line in first.splitlines() if line.startswith("| ") and "problem" not in line]
    assert {row.split("|")[2].strip() for row in rows} == set(tools.TOOLS)
    for row in rows:
        tool, label, evaluations, ks = (row.split("|")[k].strip() for k in (2, 3, 6, 8))
        assert float(evaluations) >= 20, row
        if (tool, label) == ("ours", "`ode` (default)") or ks != "–":  # hardly trained, may diverge
            assert 0 < float(ks) < 1, row
    # all is kept: nothing is trained again, and the document stays as it is
    monkeypatch.setattr(compare, "run_tool", None)
    compare.main(argv)
    assert (tmp_path / "RESULTS.md").read_text() == first
    assert capsys.readouterr().out.count("## Side by side") == 2


def test_results_keep_other_sections(tmp_path):
    path = tmp_path / "RESULTS.md"
    for name, text in (("one", "first"), ("two", "second"), ("one", "third")):
        results.write_section(path, name, text)
    written = path.read_text()
    assert "first" not in written
    assert written.index("third") < written.index("second")
    before = written
    results.write_section(path, "two", "second")
    assert path.read_text() == before

"""The benchmarks run; what they print is not judged here."""

import torch

import cli
import sde_utils
from benchmarks import cleaning, draws, machine, overhead, report


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


def test_machine_runs(monkeypatch, tmp_path, capsys):
    small = {"TURNS": 1, "STEPS": 2, "LARGE": 64, "BATCH_SIZES": (20,)}
    for name, value in small.items():
        monkeypatch.setattr(machine, name, value)
    monkeypatch.setattr(machine, "CASES", [(name, kwargs, 8) for name, kwargs, _ in machine.CASES])
    written = {}
    monkeypatch.setattr(report, "write_section", written.__setitem__)
    machine.main([])
    assert written["machine"].count("| training |") == 3
    assert machine.throughputs("cpu").count("| draws |") == len(cli.PRECISIONS)


def test_the_recorder_counts_the_products():
    with machine.Recorder() as recorder:
        torch.addmm(torch.zeros(5), torch.ones(2, 3), torch.ones(3, 5))
    assert recorder.flops() == 2 * 2 * 3 * 5
    assert recorder.bytes > 0


def test_a_section_is_replaced_and_the_others_stay(tmp_path):
    path = tmp_path / "RESULTS.md"
    for name, text in (("one", "1"), ("two", "2"), ("one", "3")):
        report.write_section(name, text, path)
    text = path.read_text()
    assert "\n3\n" in text and "\n2\n" in text and "\n1\n" not in text
    assert text.count("begin -->") == text.count("end -->") == 2
    report.write_section("one", "3", path)
    assert path.read_text() == text

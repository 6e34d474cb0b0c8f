"""Files of earlier versions load, and the scripts reach from them what they reached, to rounding.

The spectra of golden_files/ are of version 0.1; checkpoint, draws and report were written by
`python -m tests.golden files` when networks last changed, and joint_0.1.pth before. Bits depend on
the machine; tests/golden.py compares them on one.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
from golden import CLEAN, DRAWN, EVALUATED, SMALL, TRAINED

import data_generation
import evaluate
import sample
import train
from diffusion.trained import Trained

OLD = pathlib.Path(__file__).parent / "golden_files"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the old data in data/, and the old checkpoint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for path in OLD.glob("*r0-0.01.*"):
        shutil.copy(path, tmp_path / "data")
    shutil.copy(OLD / "joint.pth", tmp_path)
    return tmp_path


def test_spectra_are_drawn_as_before(tmp_path):
    data_generation.main(f"--r-range 0 0.01 {CLEAN} {SMALL} --out-dir".split() + [str(tmp_path)])
    names = [path.name for path in OLD.glob("*r0-0.01.npy")]
    assert len(names) == 6
    for name in names:
        np.testing.assert_allclose(np.load(tmp_path / name), np.load(OLD / name), rtol=1e-5)
        content, before = (
            json.loads((place / name).with_suffix(".json").read_text()) for place in (tmp_path, OLD)
        )
        assert content.keys() - {"run"} == before.keys()


def test_a_training_ends_where_it_did(folder):
    train.main(TRAINED.split())
    old, new = (Trained.load(str(folder / name)) for name in ("joint.pth", "new.pth"))
    assert new.training["settings"] == old.training["settings"]
    np.testing.assert_allclose(
        new.training["history"]["validation"], old.training["history"]["validation"], rtol=1e-4
    )
    for name, weights in old.ema_weights.items():
        np.testing.assert_allclose(new.ema_weights[name], weights, atol=1e-3)


def test_an_old_checkpoint_draws_what_it_drew(folder):
    sample.main([*DRAWN.split(), "--out-dir", "joint"])
    for name in ("denoised.npy", "r_draws.npy"):
        np.testing.assert_allclose(np.load(folder / "joint" / name), np.load(OLD / name), rtol=2e-3)
    evaluate.main(EVALUATED.split())
    report, before = (
        json.loads(path.read_text())
        for path in (folder / "evaluation/report.json", OLD / "report.json")
    )
    run, run_before = report["runs"]["joint"], before["runs"]["joint"]
    assert run.keys() - {"width_of_spectrum"} == run_before.keys()  # which came later
    assert run["r"].keys() == run_before["r"].keys()
    for name in ("mse", "excess_percent", "shuffled_mse"):
        assert run[name]["value"] == pytest.approx(run_before[name]["value"], rel=0.01)
    assert run["r"]["width_ratio"]["value"] == pytest.approx(
        run_before["r"]["width_ratio"]["value"], rel=0.01
    )
    assert [check["check"] for check in run["checks"]] == [
        check["check"] for check in run_before["checks"]
    ]


def test_a_network_of_an_earlier_version_is_refused_in_one_line(folder, capsys):
    with pytest.raises(SystemExit) as caught:
        sample.main([*DRAWN.split(), "--model-checkpoint", str(OLD / "joint_0.1.pth")])
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert caught.value.code == 2 and len(said) == 1
    assert "joint_0.1.pth: weights does not fit the network; train again" in said[0]

"""The chain of make forecast, small, and what its table says of damaged cases."""

import json

import numpy as np
import pytest

import data_generation
import evaluate
import sample
import train
from sky import cosmology
from studies import forecast

SKY = "--instrument litebird --bands 40 78 140 235 402 --clean hilc --ilc-weights model --nside 8"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A case as make forecast leaves it, from a network that has learnt next to nothing."""
    folder = tmp_path_factory.mktemp("forecast") / "litebird_gaussian_0.16"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cosmology, "lensing_bb", lambda ell, *_: 2.7e-7 * ell * (ell + 1.0))
        common = f"{SKY} --a-lens 0.16 --num-samples 300 --num-test 12 --out-dir {folder}"
        data_generation.main(f"{common} --r 0 0.001".split())
        data_generation.main(f"{common} --r-range 0 0.01".split())
    files = {"data-file": "dl_train", "cond-file": "dl_train_noisy", "param-file": "r_train"}
    words = [f"--{flag} {folder}/{name}_r0-0.01.npy" for flag, name in files.items()]
    words += [f"--out {folder}/model.pth --epochs 1 --hidden-dim 16 --num-layers 1 --device cpu"]
    train.main(" ".join(words).split())
    for name in ("r0", "r0.001", "r0-0.01"):
        noisy, truth = f"{folder}/dl_noisy_{name}.npy", f"{folder}/dl_gt_{name}.npy"
        words = f"--data-file-noisy {noisy} --model-checkpoint {folder}/model.pth --method ode"
        words += f" --num-steps 3 --num-draws 20 --device cpu --out-dir {folder}/run_{name}"
        sample.main(words.split())
        words = f"--data-file-noisy {noisy} --data-file-gt {truth} --runs {folder}/run_{name}"
        words += f" --out-dir {folder}/evaluation_{name}"
        words += f" --param-file-gt {folder}/r_gt_{name}.npy" if "-" in name else ""
        evaluate.main(words.split())
    return folder


def test_the_table_is_what_the_reports_say(case, tmp_path, capsys):
    out = tmp_path / "out"
    forecast.main(["--cases", str(case), "--out-dir", str(out)])
    (row,) = json.loads((out / "forecast.json").read_text())["cases"]
    assert (row["instrument"], row["foregrounds"], row["a_lens"]) == ("litebird", "gaussian", 0.16)
    draws = np.load(case / "run_r0" / "r_draws.npy")
    for level, key in ((0.68, "sigma_r0"), (0.95, "upper_limit_95")):
        median = np.median(np.quantile(draws, level, axis=1, method="weibull"))
        assert row[key]["value"] == pytest.approx(median)
        assert row[key]["exact"] > 0
    small = np.load(case / "run_r0.001" / "r_draws.npy").var(1, ddof=1).mean() ** 0.5
    assert row["sigma_r0.001"]["value"] == pytest.approx(small)
    assert 0 < row["sigma_r0"]["fisher"] < row["sigma_r0.001"]["fisher"]
    assert row["upper_limit_95"]["fisher"] == pytest.approx(1.96 * row["sigma_r0"]["fisher"])
    text = (out / "forecast.md").read_text()
    assert f"{1e3 * row['sigma_r0']['value']:.3f} (" in text and "16 %" in text
    assert "arXiv:2202.02773" in text and "arXiv:2110.12362" not in text
    assert (out / "forecast.png").stat().st_size > 10_000
    page = (out / "forecast.html").read_text()
    assert page.index("checks failed</p>") < page.index("<table>") < page.index("<img alt=")
    assert text in capsys.readouterr().out


DAMAGE = {
    "missing": ("evaluation_r0/report.json", None, "cannot be read"),
    "no runs": ("evaluation_r0.001/report.json", {}, "holds not one run with draws of r"),
    "no r": ("evaluation_r0/report.json", {"runs": {"a": {"checks": []}}}, "holds not one run"),
    "old": (
        "evaluation_r0-0.01/report.json",
        {"runs": {"a": {"checks": [], "r": {"sigma": [{}]}}}},
        "its reports lack 'bias_truth'",
    ),
    "one band": ("dl_noisy_r0.json", {"instrument": {"freq_ghz": 45}}, "its reports lack 'name'"),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_case_that_is_not_whole_is_one_line(case, name, content, message, tmp_path, capsys):
    copy = tmp_path / "case"
    for path in [
        "dl_noisy_r0.json",
        *(f"evaluation_{k}/report.json" for k in ("r0", "r0.001", "r0-0.01")),
    ]:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes((case / path).read_bytes())
    (copy / name).unlink() if content is None else (copy / name).write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stop:
        forecast.main(["--cases", str(copy), "--out-dir", str(tmp_path / "out")])
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and message in errors and errors.count("error:") == 1
    assert not (tmp_path / "out").exists()

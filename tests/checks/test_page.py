"""The page of evaluate.py: each run's verdict comes first, whatever its folder is called."""

import pytest

from checks import page
from checks.evaluation import Mismatch, Report, RunReport, SkyOfTraining
from checks.verdicts import Check, Measurements

MADE_WITH = {"command": "evaluate.py", "versions": {}, "git_commit": None}


def run(failed, passed, sky=None):
    checks = [Check(f"check {k}", 0.1, None, "<= 1", k >= failed) for k in range(failed + passed)]
    return RunReport("ode", Measurements(), checks, sky or SkyOfTraining(True))


def test_verdicts_tell_passes_failures_and_mismatches_apart():
    mismatch = SkyOfTraining(False, Mismatch({"a_lens": 1.0}, {"a_lens": 0.3}))
    runs = {"good": run(0, 3), "bad": run(9, 1, mismatch), "bare": run(0, 0)}
    good, bad, note, bare = page.verdicts(Report(20, "r = 0", {}, runs))
    assert (good.passed, good.words) == (True, "all 3 checks pass")
    assert not bad.passed and bad.words.startswith("9 of 10 checks failed: check 0; check 1")
    assert bad.words.endswith("check 4; 4 more")
    assert (note.passed, note.words) == (None, "mismatch: trained on a_lens 1, observed 0.3")
    assert bare.passed is None


@pytest.mark.parametrize("name", ["<b>x</b>", "a*b*|c", "../runs/_x_"])
def test_a_page_shows_the_names_of_folders(name):
    text = page.report_page(Report(20, "r = 0", {}, {name: run(1, 1)}), {}, MADE_WITH)
    shown = name.replace("<", "&lt;").replace(">", "&gt;")
    assert text.index(f"<b>{shown}</b>: 1 of 2 checks failed") < text.index("<h2>Results")
    assert f"<strong>{shown}</strong>" in text

"""Figures have the project's own style, and words where there is little to draw."""

import io
import os
import pathlib
import subprocess
import sys
import warnings

import matplotlib
import numpy as np
import pytest

from figures import corner, evaluation, spectra, studies, style, training, trajectories

ROOT = pathlib.Path(__file__).parents[2]
MODULES = (corner, evaluation, spectra, studies, training, trajectories)
SIZES = {  # (skies, draws, multipoles, epochs)
    "plenty": (30, 200, 6, 20),
    "one sky": (1, 200, 6, 20),
    "one draw": (30, 1, 6, 20),
    "one multipole": (30, 200, 1, 20),
    "one of everything": (1, 1, 1, 1),
}
HOSTILE = {
    "text.usetex": True,
    "font.family": ["Nowhere Sans"],
    "axes.facecolor": "red",
    "axes.formatter.use_locale": True,
    "axes.labelsize": 40,
    "figure.autolayout": True,
    "lines.linewidth": 9,
    "legend.frameon": False,
    "xtick.direction": "in",
    "savefig.bbox": "tight",
    "savefig.facecolor": "black",
    "mathtext.fontset": "stix",
}


class Drawn:
    """What is drawn, of random numbers: a method for each public function of the figures."""

    def __init__(self, size):
        n, m, n_ell, epochs = size
        rng = np.random.default_rng(0)
        self.epochs, self.ell = epochs, np.arange(2, 2 + n_ell)
        s = self.s = 1e-5 / self.ell
        self.truth, self.draws = 0.01 * rng.random(n), 0.01 * rng.random((n, m))
        self.r = evaluation.RDraws(self.draws, self.truth, (0.0, 0.01), None, None)
        self.dl = s * np.exp(rng.normal(size=(m, n_ell)))
        self.spectrum = evaluation.SpectrumDraws(self.ell, self.dl, self.dl, 2 * s, s)
        self.example = spectra.Example(self.ell, 2 * s, s, s)
        self.correlations = spectra.Correlations(0 * s + 0.5, 0 * s + 0.4, 0 * s + 0.6)
        self.quantiles = np.quantile(self.dl, (0.16, 0.5, 0.84), axis=0)
        bars, mse = evaluation.Errorbars(0 * s + 0.5, 0 * s + 0.1), evaluation.Errorbars(0.3, 0.01)
        u = rng.random(n)
        # names as folders may have
        self.runs = [
            evaluation.RunResult(name, bars, bars, mse, mse, u, u, u)
            for name in ("results/ve", r"_$\nonsense", "5$ a & b %")
        ]
        row = {"rms_error": 0.1, "rms_error_error": 0.01, "sigma": 0.1, "sigma_error": 0.01}
        self.bins = [evaluation.SigmaBin(r=0.2, **row, exact=0.1, fisher=0.1)] if n > 1 else []

    def corner(self):
        first, other = self.draws[0], self.dl[:, 0]
        label = style.parameter_label("a_$0")
        return corner.corner({"r": corner.Marginal("r", first), "a": corner.Marginal(label, other)})

    def of_draws(self):
        return corner.of_draws({"r": self.draws[0]}, {"r": (0.0, 0.01)})

    def triangle(self):
        return evaluation.triangle(self.r, self.spectrum, 0, r"trained on $\nonsense")

    def posterior(self):
        return evaluation.posterior(self.r, self.spectrum, 0)

    def r_overview(self):
        return evaluation.r_overview(self.r, self.bins, r"trained on $\nonsense")

    def sharpness(self):
        optimum = evaluation.Optimum(0 * self.s, 0 * self.s)
        return evaluation.sharpness(self.ell, self.runs, optimum)

    def calibration(self):
        return evaluation.calibration(self.runs)

    def controls(self):
        return evaluation.controls(self.runs, {"prior mean": 0.4})

    def budget(self):
        left = {"lensing": self.s, "noise": 2 * self.s, "ILC bias": -self.s}
        return spectra.budget(self.ell, left, {0.001: self.s})

    def denoised_example(self):
        return spectra.denoised_example(self.example, self.s, self.correlations)

    def posterior_example(self):
        r_draws = self.draws[0]
        return spectra.posterior_example(self.example, self.quantiles, None, r_draws)

    def output_example(self):
        arrays = {"denoised.npy": self.s[None]}
        return spectra.output_example(self.example, arrays, 0, self.correlations)

    def generated_examples(self):
        return spectra.generated_examples(self.ell, self.dl, self.s)

    def trajectory(self):
        return spectra.trajectory(np.array([3.0, 1, 0]), np.ones((3, len(self.ell))), self.ell)

    def side_by_side(self):
        ratios = np.array([10.0, 1, 0.01, 0])
        path = trajectories.Trajectory(ratios, np.outer([9.0, 3, 1, 1], self.ell / 2))
        band = np.array([-0.5 + 0 * self.s, 0.5 + 0 * self.s])
        marks = trajectories.Marks(self.ell, 3 + 0 * self.s, 0 * self.s, band)
        return trajectories.side_by_side(path, path, marks)

    def forecast(self):
        case = {"instrument": "PICO", "foregrounds": "none", "a_lens": 0.3}
        case["sigma_r0"] = {"fisher": 1e-3, "exact": None, "value": 2e-3}
        return studies.forecast([case], {"PICO": {"sigma_r0": (1e-3, 2e-3)}})

    def solver_quality(self):
        points = [{"evaluations": k, "KS": 1 / k} for k in range(1, 1 + self.epochs)]
        return studies.solver_quality({"VE": {"heun": points}})

    def training_loss(self):
        history = dict.fromkeys(("train", "validation", "linear"), [1.0] * self.epochs)
        levels = dict.fromkeys(("noise_to_signal", "network", "network_error", "linear"), [0.1])
        return training.training_loss(history, levels)


NAMES = [name for name in vars(Drawn) if not name.startswith("_")]


def png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def test_every_figure_is_drawn_here():
    makers = {
        name
        for module in MODULES
        for name, each in vars(module).items()
        if getattr(each, "__module__", "") == module.__name__
        and "Figure" in str(getattr(each, "__annotations__", {}).get("return"))
        and not name.startswith("_")
    }
    assert makers == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_users_settings_change_no_figure(name):
    drawn = Drawn(SIZES["plenty"])
    plain = png(getattr(drawn, name)())
    with matplotlib.rc_context(HOSTILE):
        assert png(getattr(drawn, name)()) == plain
        assert matplotlib.rcParams["lines.linewidth"] == 9  # the user's come back


def has_content(axis):
    """Whether there is a mark, an area or a word within the axes."""
    lines = [line for line in axis.lines if np.isfinite(np.asarray(line.get_xydata(), float)).any()]
    seen = [line for line in lines if len(line.get_xdata()) > 1 or line.get_marker() != "None"]
    return bool(seen or axis.collections or axis.patches or axis.texts)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_little_is_drawn_without_a_warning_or_an_empty_panel(name, size):
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("error")
        figure = getattr(Drawn(SIZES[size]), name)()
        png(figure)
    assert all(has_content(axis) for axis in figure.axes if axis.axison or axis.texts)


def test_names_of_folders_are_words_not_formulas():
    assert style.plain("a$b") == r"a\$b" and style.plain("ve") == "ve"
    figure = Drawn(SIZES["plenty"]).calibration()
    assert len(figure.legends[0].get_texts()) == 3  # "_..." as well
    style.plain("\udcff").encode()


def test_negative_observations_are_shown_by_their_size():
    drawn = Drawn(SIZES["plenty"])
    y = drawn.s * np.array([1, -1, 1, 1, -1, 1])
    example = spectra.Example(drawn.ell, y, None, None)
    (axis,) = spectra.denoised_example(example, drawn.s, None).axes
    assert r"observation, negative: $-D_\ell$" in axis.get_legend_handles_labels()[1]


PROGRAM = """
from runtime import cli, drawing
from figures import training

@cli.script
def main(argv=None):
    import healpy  # imports matplotlib
    history = dict.fromkeys(("train", "validation", "linear"), [1.0, 0.9])
    levels = dict.fromkeys(("noise_to_signal", "network", "network_error", "linear"), [0.1, 1.0])
    drawing.write_figure("loss.png", lambda: training.training_loss(history, levels))

main()
"""
FILES = {"bad values": b"backend: nonsense\ntext.usetex: True\nfont.family: Nowhere\n"}
FILES["no text"] = b"\xd0\xff\x00"


@pytest.mark.parametrize("backend", ["", "nonsense", "tkagg"])
@pytest.mark.parametrize("content", FILES)
def test_no_environment_fails_the_figure_of_a_script(tmp_path, content, backend):
    (tmp_path / "matplotlibrc.user").write_bytes(FILES[content])
    variables = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc.user"), "MPLBACKEND": backend}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", PROGRAM]
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run(command, **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "loss.png").stat().st_size > 1000

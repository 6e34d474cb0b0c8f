"""Forecast of sigma(r) of two instruments, beside exact posteriors, Fisher limits, published ones.

A case is an instrument, its foregrounds, and the share of lensing that is left: echo or litebird,
Gaussian foregrounds or PySM3's d1 s1, all lensing or 16 % of it. For each a joint posterior of
spectrum and r is trained on cleaned skies and evaluated on skies of r = 0, of r = 0.001, and of r
over its prior. Two cases run at a time, with one thread each; each command is printed before it
runs, and a case that is done is not run again. Cases of d1 s1 are left out where PySM3's templates
cannot be had. Then the reports of all cases in --out-dir are gathered into one table.

Reads:   PySM3's templates, from the folder that PYSM_LOCAL_DATA names or from the network. With
         --cases nothing runs: of each folder dl_noisy_r0.json, and report.json in evaluation_r0,
         evaluation_r0.001 and evaluation_r0-0.01.
Writes:  into --out-dir a folder of each case, forecast.json, forecast.md (one table),
         forecast.png, and both as forecast.html, one file to send.

Takes about twenty minutes on two cores.

Examples:
  python -m studies.forecast --out-dir results/forecast
  python -m studies.forecast --cases results/forecast/echo_gaussian_1 --out-dir one_case
"""

import argparse
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Self

from checks import report
from figures.studies import forecast as draw_forecast
from runtime import atomic, cli, console, drawing, html, jsonfiles, locks, provenance, run_folder
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.records import Record
from studies import runs
from studies.runs import NETWORK, NULL, R_RANGE, RANGE, SMALL, Chain, Files, Flags, Sizes, Step

JOBS, THREADS = 2, 1
GAUSSIAN, PRESETS = ("gaussian",), ("d1", "s1")
FISHER_95 = 1.96  # sigma at the 95 % limit of a Gaussian


# --- runs ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CaseSky:
    """What a case observes.

    Attributes:
        instrument: A name of data_generation.py.
        foregrounds: Likewise.
        a_lens: Share of the lensing power that is left.
    """

    instrument: str
    foregrounds: Flags
    a_lens: float

    @property
    def name(self) -> str:
        """Folder of the case."""
        return f"{self.instrument}_{'+'.join(self.foregrounds)}_{self.a_lens:g}"

    @property
    def flags(self) -> Flags:
        """Flags of data_generation.py."""
        return (
            *("--instrument", self.instrument, "--foregrounds", *self.foregrounds),
            *("--a-lens", f"{self.a_lens:g}", "--clean", "hilc", "--ilc-weights", "model"),
        )


SKIES = tuple(
    CaseSky(instrument, foregrounds, a_lens)
    for foregrounds in (GAUSSIAN, PRESETS)
    for instrument in ("echo", "litebird")
    for a_lens in (1, 0.16)
)


def chain(out_dir: str, sky: CaseSky, sizes: Sizes) -> Chain:
    """Data, training, runs and evaluations of a case."""
    folder = f"{out_dir}/{sky.name}"
    files, model = Files(folder), f"{folder}/posterior.pth"
    few, many = sizes.skies(1, 300), sizes.skies(500_000, 300)
    batches = ("--batch-size", "512")
    steps = [
        runs.generate(sky.flags, "--r", NULL, SMALL, few, "--out-dir", folder),
        runs.generate(sky.flags, R_RANGE, many, "--out-dir", folder),
        runs.train(NETWORK, batches, files.pairs, sizes.epochs(5), "--out", model),
        *(step for r in (NULL, SMALL, RANGE) for step in answer(Files(folder, r), model)),
    ]
    return Chain(steps, pathlib.Path(folder, "done"), sizes)


def answer(files: Files, model: str) -> list[Step]:
    """Draws for the observations of one r, or of a range, and their evaluation."""
    run = f"{files.folder}/run_r{files.r}"
    solved = ("--model-checkpoint", model, "--method", "ode", "--out-dir", run)
    report = f"{files.folder}/evaluation_r{files.r}"
    return [
        runs.sample(files.observed, solved),
        runs.evaluate("--runs", run, files.evaluated, "--out-dir", report),
    ]


def run_cases(out_dir: str, sizes: Sizes) -> list[str]:
    """Run the cases that are not done; folders of all that are, in the order of their names.

    Raises:
        StepFailed: If a case of Gaussian foregrounds failed, or any was interrupted.
    """
    gaussian, presets = (
        [chain(out_dir, sky, sizes) for sky in SKIES if sky.foregrounds == foregrounds]
        for foregrounds in (GAUSSIAN, PRESETS)
    )
    runs.run_chains(gaussian, JOBS, THREADS)
    try:
        runs.run_chains(presets, JOBS, THREADS)
    except runs.StepFailed as failure:
        if failure.interrupted:
            raise
        missing = [str(c.done.parent) for c in presets if c.done and not c.is_done]
        console.info(f"d1 s1: the forecast goes on without {', '.join(missing)}")
    return [str(done.parent) for done in sorted(pathlib.Path(out_dir).glob("*/done"))]


# --- numbers of a case -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Width:
    """A width of p(r | y): learned, of the exact posterior, and its Fisher limit; None if unknown.

    Attributes:
        value: Of the draws.
        exact: Of the exact posterior.
        fisher: Of a Gaussian with the Fisher information.
    """

    value: float
    exact: float | None
    fisher: float | None

    def cell(self) -> str:
        """ "value (exact, Fisher)" in units of 1e-3."""
        values = (self.value, self.exact, self.fisher)
        learned, exact, fisher = ("–" if v is None else f"{1e3 * v:.3f}" for v in values)
        return f"{learned} ({exact}, {fisher})"


@dataclasses.dataclass(frozen=True)
class Bias:
    """Mean of (r estimated - r true) / sigma, and its standard error."""

    value: float
    error: float


@dataclasses.dataclass(frozen=True)
class Case:
    """What the reports of a case hold.

    Attributes:
        case: Name of its folder.
        instrument, foregrounds, a_lens: What was observed.
        weights_from: "model" or "sky": where the weights of the cleaning come from.
        sigma_r0: The 68 % upper limit at r = 0 (the definition of arXiv:2202.02773), median over
            skies; of the Fisher limit, sigma.
        upper_limit_95: Likewise at 95 %; of the Fisher limit, 1.96 sigma.
        sigma_small: sigma(r = 0.001).
        bias: Of r over the prior.
        checks_failed, checks: Of the posterior over the prior.
    """

    case: str
    instrument: str
    foregrounds: str
    a_lens: float
    weights_from: str
    sigma_r0: Width
    upper_limit_95: Width
    sigma_small: Width
    bias: Bias
    checks_failed: int
    checks: int

    @classmethod
    def load(cls, folder: str) -> Self:
        """Read the reports in a folder.

        Raises:
            InputError: If something is missing; it is named.
        """
        record = Record.from_json(jsonfiles.read_json(os.path.join(folder, "dl_noisy_r0.json")))
        null, small, wide = (_read_run(folder, r) for r in (NULL, SMALL, RANGE))
        try:
            (row,), (small_row,) = null["r"]["sigma"], small["r"]["sigma"]
            sky = jsonfiles.to_json(record.sky)  # KeyError names what is unknown
            return cls(
                case=os.path.basename(os.path.normpath(folder)),
                instrument=sky["instrument"]["name"],
                foregrounds=" ".join(sky["foregrounds"]),
                a_lens=sky["a_lens"],
                weights_from=sky["cleaning"]["weights_from"],
                sigma_r0=_upper_limit(null["r"], 68, row["fisher"]),
                upper_limit_95=_upper_limit(null["r"], 95, FISHER_95 * row["fisher"]),
                sigma_small=Width(small_row["sigma"], small_row["exact"], small_row["fisher"]),
                bias=Bias(**{k: wide["r"]["bias_truth"][k] for k in ("value", "error")}),
                checks_failed=sum(not check["passed"] for check in wide["checks"]),
                checks=len(wide["checks"]),
            )
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder}: its reports lack {error}; run evaluate.py again") from None

    @property
    def lensing_left(self) -> str:
        """Share of the lensing that is left, in words."""
        return f"{100 * self.a_lens:g} %"

    @property
    def verdict(self) -> html.Verdict:
        """Whether the posterior over the prior passed its checks."""
        name = f"{self.instrument}, {self.foregrounds}, {self.lensing_left} of the lensing"
        failed = self.checks_failed
        words = f"{failed} of {self.checks} checks failed" if failed else "all checks pass"
        return html.Verdict(name, words, not failed)

    def to_json(self) -> Json:
        """As forecast.json has it."""
        content = dataclasses.asdict(self)
        return {{"sigma_small": "sigma_r0.001"}.get(k, k): v for k, v in content.items()}


def _read_run(folder: str, r: str) -> Json:
    """The one run of a report, with its r and its checks."""
    path = os.path.join(folder, f"evaluation_r{r}", "report.json")
    report = jsonfiles.read_json(path)
    try:
        (run,) = report["runs"].values()
        if run["r"].get("upper_limit_95", {}) is None:
            raise InputError(
                f"{path}: has no 95 % limits, for want of draws: sample.py --num-draws"
            )
        return {"r": run["r"], "checks": run["checks"]}
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{path}: holds not one run with draws of r; run evaluate.py again"
        ) from None


def _upper_limit(report: Json, level: int, fisher: float) -> Width:
    entry = report[f"upper_limit_{level}"]
    return Width(entry["median"], entry.get("exact_median"), fisher)


# --- the forecast ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Published:
    """What others say, for orientation: full text in docs/theory.md, "From bands to r".

    Attributes:
        sigma_r0: (low, high) of sigma(r = 0).
        source: Where it stands.
        text: In words.
    """

    sigma_r0: tuple[float, float]
    source: str
    text: str


PUBLISHED = {
    "echo": Published(
        sigma_r0=(0.4e-3, 0.7e-3),
        source="arXiv:2110.12362",
        text="σ(r = 0) ≈ (0.4–0.7)·10⁻³, with NILC on a masked sky and ℓ above 31",
    ),
    "litebird": Published(
        sigma_r0=(0.0, 1.0e-3),
        source="arXiv:2202.02773",
        text="total uncertainty of r below 1·10⁻³ at r = 0, systematic errors and a margin "
        "included, on a masked sky and 2 ≤ ℓ ≤ 200",
    ),
}
INTRODUCTION = (
    "Learned posterior, in brackets the exact posterior and the Fisher limit for the same",
    "residuals; in units of 10⁻³. Full sky, ell = 2–31, r uniform on 0–0.01. σ(r = 0) is the",
    "68 % upper limit on skies of r = 0, median over skies; of the Fisher limit, 1 and 1.96 σ.",
)
CAPTION = "σ(r = 0) of each case: learned, exact and Fisher limit; in grey published ones."
HEADER = (
    *("instrument", "foregrounds", "lensing left", "σ(r = 0)", "95 % limit at r = 0"),
    *("σ(r = 0.001)", "bias of r, σ", "checks failed"),
)


def markdown(cases: Sequence[Case]) -> str:
    """The forecast as a Markdown document."""
    rows = [
        (
            *(case.instrument, case.foregrounds, case.lensing_left),
            *(width.cell() for width in (case.sigma_r0, case.upper_limit_95, case.sigma_small)),
            f"{case.bias.value:.2f} ± {case.bias.error:.2f}",
            f"{case.checks_failed} of {case.checks}",
        )
        for case in cases
    ]
    lines = [*INTRODUCTION, "", *report.table(HEADER, rows)]
    lines += ["", "Published, for orientation, under other assumptions than ours:", ""]
    for name in dict.fromkeys(case.instrument for case in cases):
        if name in PUBLISHED:
            lines.append(f"- {name}: {PUBLISHED[name].text} ({PUBLISHED[name].source}).")
    return "\n".join(lines) + "\n"


def gather(folders: Sequence[str], out_dir: str, argv: list[str] | None) -> None:
    """Read the cases of some folders and write the forecast."""
    cases = [Case.load(folder) for folder in folders]
    kinds = ("json", "md", "png", "html")
    paths = [os.path.join(out_dir, f"forecast.{kind}") for kind in kinds]
    with locks.hold(paths[0]):
        write(cases, paths, argv)


def write(cases: Sequence[Case], paths: Sequence[str], argv: list[str] | None) -> None:
    """Write the forecast, its table, figure and page, in place of an earlier one; then print it."""
    atomic.claim_outputs(paths)
    content: Json = {
        "cases": [case.to_json() for case in cases],
        "published": {name: dataclasses.asdict(entry) for name, entry in PUBLISHED.items()},
    }
    text, run = markdown(cases), provenance.run_id(content)
    made_by = {"run": run, **provenance.collect(argv)}
    contents = {paths[0]: atomic.json_bytes(content | made_by), paths[1]: text.encode()}
    drawn = drawing.render_all(
        {paths[2]: lambda: draw_forecast(content["cases"], content["published"])}
    )
    pictures = [html.Picture(CAPTION, png) for png in drawn.values()]
    verdicts = [case.verdict for case in cases]
    page = html.page("Forecast of σ(r)", verdicts, text, pictures, made_by)
    contents |= {**drawn, paths[3]: page.encode()}
    run_folder.publish(contents, paths)
    console.print_result(text)
    console.print_result(f"wrote {', '.join(contents)}")


def build_parser() -> argparse.ArgumentParser:
    parser = runs.make_parser(__doc__, "results/forecast")
    parser.add_argument("--cases", nargs="+", help="folders of cases to gather; nothing runs")
    return parser


@cli.script
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    folders = args.cases or run_cases(args.out_dir, Sizes(args.shrink))
    gather(folders, args.out_dir, argv)


if __name__ == "__main__":
    main()

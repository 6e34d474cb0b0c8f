"""Gather evaluated runs into a forecast of sigma(r), beside Fisher limits and published ones.

A case is a folder with the observations and the reports that `make forecast` leaves in it: a joint
posterior of spectrum and r, evaluated on skies of r = 0, of r = 0.001, and of r over its prior.

Reads:   of each case dl_noisy_r0.json, and report.json in evaluation_r0, evaluation_r0.001 and
         evaluation_r0-0.01.
Writes:  into --out-dir forecast.json, forecast.md (one table) and forecast.png.

Example:
  python forecast.py --cases results/forecast/echo_gaussian_1 --out-dir results/forecast
"""

import os

from figures import studies as plots
from runtime import atomic, cli, console, records
from runtime.errors import InputError

RANGE, NULL, SMALL = "r0-0.01", "r0", "r0.001"

# what others say, for orientation: full text in docs/theory.md, section "From bands to r"
PUBLISHED = {
    "echo": {
        "sigma_r0": (0.4e-3, 0.7e-3),
        "source": "arXiv:2110.12362",
        "text": "σ(r = 0) ≈ (0.4–0.7)·10⁻³, with NILC on a masked sky and ℓ above 31",
    },
    "litebird": {
        "sigma_r0": (0.0, 1.0e-3),
        "source": "arXiv:2202.02773",
        "text": "total uncertainty of r below 1·10⁻³ at r = 0, systematic errors and a margin "
        "included, on a masked sky and 2 ≤ ℓ ≤ 200",
    },
}


def load_case(folder):
    """Numbers of one case; InputError names what is missing.

    Returns:
        A JSON-ready dict: what was observed, and {"value", "exact", "fisher"} of sigma(r = 0), the
        68 % upper limit at r = 0 (the definition of arXiv:2202.02773), of sigma(r = 0.001) and of
        the 95 % upper limit at r = 0; bias of r in sigma over the prior; checks that failed.
    """
    sidecar = os.path.join(folder, "dl_noisy_r0.json")
    sky = records.read_json(sidecar)
    parts = {}
    for name in (NULL, SMALL, RANGE):
        path = os.path.join(folder, f"evaluation_{name}", "report.json")
        report = records.read_json(path)
        try:
            (run,) = report["runs"].values()
            parts[name] = run["r"], run["checks"]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(
                f"{path}: holds not one run with draws of r; run evaluate.py again"
            ) from None
    try:
        return {"case": os.path.basename(os.path.normpath(folder)), **_numbers(sky, parts)}
    except (IndexError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: its reports lack {error}; run evaluate.py again") from None


def _numbers(sky, parts):
    null, small, wide = (parts[name][0] for name in (NULL, SMALL, RANGE))
    (row,) = null["sigma"]
    (small_row,) = small["sigma"]

    def limit(level):
        entry = null[f"upper_limit_{level}"]
        return {"value": entry["median"], "exact": entry.get("exact_median")}

    checks = parts[RANGE][1]
    return {
        "instrument": sky["instrument"]["name"],
        "foregrounds": " ".join(sky["foregrounds"]),
        "a_lens": sky["a_lens"],
        "weights_from": sky["cleaning"]["weights_from"],
        "sigma_r0": {**limit(68), "fisher": row["fisher"]},
        "upper_limit_95": {**limit(95), "fisher": 1.96 * row["fisher"]},
        "sigma_r0.001": {
            "value": small_row["sigma"],
            "exact": small_row["exact"],
            "fisher": small_row["fisher"],
        },
        "bias": wide["bias_truth"],
        "checks_failed": sum(not check["passed"] for check in checks),
        "checks": len(checks),
    }


def cell(entry):
    """ "value (exact, Fisher)" in units of 1e-3."""
    values = [entry["value"], entry["exact"], entry["fisher"]]
    own, exact, fisher = ("–" if v is None else f"{1e3 * v:.3f}" for v in values)
    return f"{own} ({exact}, {fisher})"


def markdown(cases):
    """The forecast as a Markdown document."""
    lines = [
        "Learned posterior, in brackets the exact posterior and the Fisher limit for the same",
        "residuals; in units of 10⁻³. Full sky, ell = 2–31, r uniform on 0–0.01. σ(r = 0) is the",
        "68 % upper limit on skies of r = 0, median over skies; of the Fisher limit, 1 and 1.96 σ.",
        "",
        "| instrument | foregrounds | lensing left | σ(r = 0) | 95 % limit at r = 0 | σ(r = 0.001) "
        "| bias of r, σ | checks failed |",
        "|---" * 8 + "|",
    ]
    for case in cases:
        bias = case["bias"]
        cells = [case["instrument"], case["foregrounds"], f"{100 * case['a_lens']:g} %"]
        cells += [cell(case[k]) for k in ("sigma_r0", "upper_limit_95", "sigma_r0.001")]
        cells.append(f"{bias['value']:.2f} ± {bias['error']:.2f}")
        cells.append(f"{case['checks_failed']} of {case['checks']}")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Published, for orientation, under other assumptions than ours:", ""]
    for name in dict.fromkeys(case["instrument"] for case in cases):
        if name in PUBLISHED:
            lines.append(f"- {name}: {PUBLISHED[name]['text']} ({PUBLISHED[name]['source']}).")
    return "\n".join(lines) + "\n"


def build_parser():
    parser = cli.make_parser(__doc__)
    parser.add_argument("--cases", nargs="+", required=True, help="folders of make forecast")
    parser.add_argument("--out-dir", default="forecast", help="folder of the outputs")
    return parser


@cli.script
def main(argv=None):
    args = build_parser().parse_args(argv)
    cases = [load_case(folder) for folder in args.cases]
    outputs = {
        name: os.path.join(args.out_dir, f"forecast.{name}") for name in ("json", "md", "png")
    }
    atomic.claim_outputs(outputs.values())

    content = {"cases": cases, "published": PUBLISHED, **records.provenance(argv)}
    atomic.write_json(outputs["json"], content)
    text = markdown(cases)
    atomic.write_bytes(outputs["md"], text)
    atomic.write_figure(outputs["png"], plots.forecast(cases, PUBLISHED))
    console.print_result(text)
    console.print_result(f"wrote {', '.join(outputs.values())}")


if __name__ == "__main__":
    main()

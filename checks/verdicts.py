"""Every check of a run, with its threshold: passed or not."""

import numpy as np

from checks import sharpness

LIMITS = {  # thresholds of the verdicts
    "excess_percent": 1.0,
    "pit_ks": 0.015,
    "r2": 0.02,
    "slope": 0.03,
    "p_value": 0.01,
    "r_width_ratio": 0.03,
    "r_bias": 0.02,
    "r_rms_deviation": 0.15,
}


def verdicts(report):
    """Every check of a run as {"check", "value", "error", "limit", "passed"}."""
    rows = []

    def add(check, value, error, limit, passed):
        rows.append(dict(check=check, value=value, error=error, limit=limit, passed=bool(passed)))

    def at_most(check, entry, limit):
        add(check, entry["value"], entry["error"], f"<= {limit:g}", abs(entry["value"]) <= limit)

    if "excess_percent" in report:
        at_most(
            "MSE above the exact optimum, %", report["excess_percent"], LIMITS["excess_percent"]
        )
        gap = np.subtract(report["slope"], report["slope_limit"])[: sharpness.LOW_ELL - 1]
        worst = int(np.abs(gap).argmax())
        entry = {"value": float(gap[worst]), "error": report["slope_error"][worst]}
        at_most(
            f"response slope minus its limit, worst of ell <= {sharpness.LOW_ELL}",
            entry,
            LIMITS["slope"],
        )
    if "r2_gap" in report:
        worst = int(np.argmax(report["r2_gap"]))
        entry = {"value": report["r2_gap"][worst], "error": report["r2_gap_error"][worst]}
        at_most("R2 below its limit, worst ell", entry, LIMITS["r2"])
    if "pit_ks" in report:
        at_most("PIT KS of D_ell", report["pit_ks"], LIMITS["pit_ks"])
    if "shuffled_minus_mse" in report:
        entry = report["shuffled_minus_mse"]
        lost = entry["value"] > sharpness.SIGMAS * entry["error"]
        limit = f"> {sharpness.SIGMAS} errors"
        add("MSE lost by shuffled observations", entry["value"], entry["error"], limit, lost)
    for name, p in (
        ("SBC of D_ell, smallest p x n_ell", report.get("sbc", {}).get("smallest_times_ell")),
        ("TARP of D_ell, p", report.get("tarp", {}).get("p_value")),
        ("SBC of r, p", report.get("r", {}).get("sbc_p")),
    ):
        if p is not None:
            add(name, p, None, f"> {LIMITS['p_value']:g}", p > LIMITS["p_value"])
    if "r" in report:
        r = report["r"]
        if "width_ratio" in r:
            ratio = {**r["width_ratio"], "value": r["width_ratio"]["value"] - 1}
            at_most("width ratio of r - 1", ratio, LIMITS["r_width_ratio"])
            at_most("PIT KS of r", r["pit_ks"], LIMITS["pit_ks"])
            at_most("bias of r, sigma", r["bias"], LIMITS["r_bias"])
            at_most("rms deviation of r, sigma", r["rms_deviation"], LIMITS["r_rms_deviation"])
        if "sbc_p" in r:  # over its prior an exact posterior has no bias
            bias, error = r["bias_truth"]["value"], r["bias_truth"]["error"]
            passed = abs(bias) <= LIMITS["r_bias"] + sharpness.SIGMAS * error
            limit = f"<= {LIMITS['r_bias']:g} + {sharpness.SIGMAS} errors"
            add("bias of r against the truth, sigma", bias, error, limit, passed)
        for row in r["sigma"]:
            if row["limit"] is None:
                continue
            passed = row["sigma"] > row["limit"] - sharpness.SIGMAS * row["error"]
            check = f"sigma(r) at r = {row['r']:.4f} not below its limit"
            limit = f"> {row['limit']:.3g} - {sharpness.SIGMAS} errors"
            add(check, row["sigma"], row["error"], limit, passed)
    return rows

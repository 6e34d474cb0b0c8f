"""Run the reverse process: from an observed spectrum, or from the prior.

With --data-file-noisy it starts at the normalised observation, as the published recipe does,
and writes denoised.npy; what that output is worth stands in metrics.json and in one sentence on
stdout. Without, it generates new spectra and writes generated.npy. Reads the checkpoint of
train.py and the test set of data_generation.py. Writes into --out-dir the spectra, metrics.json,
examples.png, and with --plot-trajectories trajectory.npy (normalised states, first column
sigma/alpha) and trajectory.png.

Example:
  python sample.py --data-file-noisy data/dl_noisy_r0.001.npy --data-file-gt data/dl_gt_r0.001.npy \\
      --model-checkpoint model.pth --method sde --num-steps 1000
"""

import dataclasses
import math
import os
import time

import numpy as np

import cli
import sde_utils
import solvers
import storage

BLOCK_ROWS = 1024  # rows that share a generator and fit the cache together


def run_reverse(step, score_fn, sde, start, n, t_start, num_steps, seed, device, keep, bar):
    """Integrate n rows in blocks; the result depends on the seed, not on the machine's memory.

    Args:
        step: A solver step.
        score_fn: Callable (x, t) -> score.
        sde: An instance of a class in sde_utils.SDES.
        start: Rows to start from, float32 tensor (n, n_ell), or n_ell to start from the prior.
        n: Number of rows.
        t_start: Largest time, scalar tensor on the device.
        num_steps: Steps of the solver.
        seed: Seed; each block has its own stream.
        device: torch.device.
        keep: Row whose states are returned, or None.
        bar: Progress bar over steps.

    Returns:
        (x, states): (n, n_ell) on the CPU; states of the kept row, (num_steps + 2, 1 + n_ell),
        with sigma/alpha in the first column, or None.
    """
    import torch

    blocks, states = [], []
    for block, first in enumerate(range(0, n, BLOCK_ROWS)):
        rows = min(BLOCK_ROWS, n - first)
        block_seed = np.random.SeedSequence((seed, block)).generate_state(1, np.uint32)
        generator = torch.Generator(device).manual_seed(int(block_seed[0]))
        if isinstance(start, int):
            x = torch.empty(rows, start, device=device).normal_(generator=generator)
            x = x * sde_utils.prior_std(sde, t_start)
        else:
            x = start[first : first + rows].to(device)
        kept = keep - first if keep is not None and first <= keep < first + rows else None

        def on_step(t, x, kept=kept):
            bar.update()
            if kept is not None:
                ratio = sde.sigma(t) / sde.alpha(t)
                states.append(torch.cat([ratio[None], x[kept]]).cpu())

        x = solvers.integrate(step, score_fn, sde, x, t_start, num_steps, generator, on_step)
        blocks.append(x.cpu())
    return torch.cat(blocks), torch.stack(states).double().numpy() if states else None


def correlation(a, b):
    """Pearson correlation per column, shape (n_ell,); NaN where one does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))


def denoising_metrics(outputs, truth, scale, x_truth):
    """Mean squared errors of several outputs against the truth.

    Args:
        outputs: {name: (dl, x)}, D_ell in uK^2 and normalised, broadcastable to (n, n_ell).
        truth: True D_ell, shape (n, n_ell), uK^2.
        scale: Mean power per multipole, shape (n_ell,), or None.
        x_truth: Truth in normalised units, or None where it has none (r = 0).

    Returns:
        {name: {"mse_dl": uK^4, "mse_dl_over_signal_squared", "mse_normalised"}}.
    """
    table = {}
    for name, (dl, x) in outputs.items():
        mse = np.square(dl - truth).mean(0)
        row = {"mse_dl": float(mse.mean()), "mse_dl_over_signal_squared": None}
        if scale is not None and (scale > 0).all():
            row["mse_dl_over_signal_squared"] = float((mse / scale**2).mean())
        known = x_truth is not None
        row["mse_normalised"] = float(np.square(x - x_truth).mean()) if known else None
        table[name] = row
    return table


def verdict(corr, limit, n):
    """One sentence on what the output knows of the truth beyond the prior.

    Args:
        corr: Correlation of output and truth per multipole, shape (n_ell,).
        limit: The best correlation any method could reach, or None.
        n: Number of test rows.
    """
    if not np.isfinite(corr).all():
        return "The truth does not vary (r = 0), so that no output can be told from the prior."
    noise = 3 / math.sqrt(n * len(corr))
    if limit is None:
        if corr.mean() < 0.05 + noise:
            return (
                f"Its mean correlation with the truth is {corr.mean():.3f}: the output carries no "
                "more information than the prior; it is a new draw, not the denoised sky."
            )
        return f"Its mean correlation with the truth is {corr.mean():.3f}."
    if limit.max() < 0.05:
        return (
            f"The observation holds no information: no method can reach a correlation above "
            f"{limit.max():.1e} with the truth; the output carries no more than the prior."
        )
    share = float(corr @ limit / (limit @ limit))
    error = 1 / math.sqrt(n * float(limit @ limit))
    numbers = f"{100 * share:.1f} +- {100 * error:.1f} % of the correlation that is attainable"
    if share < 0.1 + 3 * error:
        return (
            f"The output reaches {numbers}: it carries (nearly) no more information than the "
            "prior; it is a new draw, not the denoised sky."
        )
    return f"The output reaches {numbers}."


def generated_metrics(generated, metadata):
    """Distance of generated spectra from the exact law S chi^2_nu / nu, where S is known.

    Returns:
        {"ks_mean", "ks_low" (ell = 2-6), "skewness_error", "ks" per ell}, the skewness being that
        of log D_ell, mean absolute error over ell; empty where the law is unknown.
    """
    if metadata.get("quantity") != "primordial BB" or not metadata.get("r"):
        return {}
    from scipy import special, stats

    signal = np.array(metadata["dl_signal"])
    nu = 2 * np.arange(2, 2 + len(signal)) + 1
    ks = np.array(
        [
            stats.kstest(column / s, stats.chi2(k, scale=1 / k).cdf).statistic
            for column, s, k in zip(generated.T, signal, nu, strict=True)
        ]
    )
    exact = special.polygamma(2, nu / 2) / special.polygamma(1, nu / 2) ** 1.5
    skewness = np.abs(stats.skew(np.log(generated), axis=0) - exact).mean()
    return {
        "ks_mean": float(ks.mean()),
        "ks_low": float(ks[:5].mean()),
        "skewness_error": float(skewness),
        "ks": ks.tolist(),
    }


def build_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("files")
    npy = cli.file_argument(".npy")
    group.add_argument("--data-file-noisy", type=npy, help="observations; without, generate")
    group.add_argument("--data-file-gt", type=npy, help="their truth, row for row")
    group.add_argument(
        "--model-checkpoint",
        type=cli.file_argument(".pth"),
        default="model.pth",
        help="checkpoint of train.py",
    )
    group.add_argument("--out-dir", default=".", help="folder of the outputs")
    group.add_argument("--num-samples", type=cli.positive_int, help="spectra to generate (10000)")
    cli.add_sde_arguments(parser)
    group = parser.add_argument_group("reverse process")
    about = "; ".join(f"{k}: {v.about}, {v.num_steps} steps" for k, v in solvers.SOLVERS.items())
    group.add_argument("--method", choices=solvers.SOLVERS, default="sde", help=about)
    group.add_argument(
        "--num-steps", type=cli.positive_int, help="steps of the solver (as given for --method)"
    )
    group.add_argument(
        "--t-start", type=cli.diffusion_time, help="time at which an observation enters (1.0)"
    )
    group.add_argument(
        "--corrector-steps", type=cli.positive_int, help="pc: Langevin steps per step (1)"
    )
    group.add_argument(
        "--corrector-step-size", type=cli.positive_float, help="pc: step in units of sigma (0.1)"
    )
    group = parser.add_argument_group("figures")
    group.add_argument(
        "--plot-trajectories", action="store_true", help="save and draw the states of one row"
    )
    group.add_argument(
        "--trajectory-index", type=cli.non_negative_int, default=0, help="row shown in figures"
    )
    cli.add_run_arguments(parser)
    return parser


def check_arguments(parser, args):
    """Rules across arguments; fills the defaults that depend on others."""
    if args.data_file_gt and not args.data_file_noisy:
        parser.error("--data-file-gt needs --data-file-noisy")
    if args.data_file_noisy and args.num_samples:
        parser.error("--num-samples is for generating; leave out --data-file-noisy")
    if args.t_start and not args.data_file_noisy:
        parser.error("--t-start is for observations; the prior starts at 1")
    solver = solvers.SOLVERS[args.method]
    if not solver.corrected and (args.corrector_steps or args.corrector_step_size):
        parser.error(f"--corrector-steps and --corrector-step-size do not go with {args.method}")
    args.num_steps = args.num_steps or solver.num_steps


def check_sde(parser, args, sde):
    """Error where SDE flags contradict the checkpoint."""
    name = next(k for k, v in sde_utils.SDES.items() if v is type(sde))
    if args.sde_type and args.sde_type != name:
        parser.error(f"--sde-type {args.sde_type}: the checkpoint was trained with {name}")
    for key, value in cli.sde_parameters(parser, args, name).items():
        if value != getattr(sde, key):
            flag = key.replace("_", "-")
            parser.error(
                f"--{flag} {value:g}: the checkpoint was trained with {getattr(sde, key):g}; "
                "leave the flag out"
            )


def load_observations(args, checkpoint):
    """(observed, truth) Spectra; truth may be None. InputError where they do not fit."""
    n_ell = checkpoint["network_kwargs"]["n_ell"]
    observed = storage.load_spectra(args.data_file_noisy)
    if observed.values.shape[1] != n_ell:
        raise cli.InputError(
            f"{args.data_file_noisy}: has {observed.values.shape[1]} multipoles, the model {n_ell}"
        )
    if (observed.values <= 0).any():
        raise cli.InputError(f"{args.data_file_noisy}: holds zeros, which have no logarithm")
    truth = storage.load_spectra(args.data_file_gt) if args.data_file_gt else None
    if truth is not None and truth.values.shape != observed.values.shape:
        raise cli.InputError(
            f"{args.data_file_gt}: has shape {truth.values.shape}, the observations "
            f"{observed.values.shape}; they must match row for row"
        )
    r_data, r_model = observed.metadata.get("r"), checkpoint["data"].get("r")
    if r_data is not None and r_model is not None and r_data != r_model:
        cli.note(
            f"the model was trained at r = {r_model:g} and returns spectra of that r, "
            f"whatever the sky; these observations have r = {r_data:g}"
        )
    return observed, truth


def report_denoised(observed, truth, x_out, dl_out, checkpoint):
    """Metrics of the denoised spectra against their truth, with one sentence of verdict."""
    import torch

    normalizer = checkpoint["normalizer"]
    dl_truth = np.asarray(truth.values, float)
    positive = (dl_truth > 0).all()
    normalize = lambda dl: normalizer.normalize(torch.tensor(dl)).double().numpy()  # noqa: E731
    x_truth = normalize(dl_truth) if positive else None
    outputs = {
        "denoised": (dl_out, x_out),
        "observation": (observed.values, normalize(np.asarray(observed.values, float))),
        "prior_mean": (np.array(checkpoint["data"]["mean_dl"]), 0.0),
        # the truth of another sky is a draw from the prior that never saw the observation
        "prior_draw": (np.roll(dl_truth, 1, 0), np.roll(x_truth, 1, 0) if positive else None),
    }
    signal, noise = observed.theory("dl_signal"), observed.theory("dl_contaminant")
    limit = None if signal is None or noise is None else signal / (signal + noise)
    corr = correlation(dl_out, dl_truth)
    corr_observed = correlation(observed.values, dl_truth)
    finite = np.isfinite(corr).all() and np.isfinite(corr_observed).all()
    return {
        "mse": denoising_metrics(outputs, dl_truth, signal, x_truth),
        "correlation": {
            "denoised": corr.tolist() if finite else None,
            "observation": corr_observed.tolist() if finite else None,
            "limit": None if limit is None else limit.tolist(),
        },
        "verdict": verdict(corr, limit, len(dl_truth)),
    }


def print_metrics(metrics):
    """The metrics as short lines on stdout."""
    for name, row in metrics.get("mse", {}).items():
        cells = [f"{k} {v:.4g}" for k, v in row.items() if v is not None]
        cli.say(f"{name:12s} {'  '.join(cells)}")
    correlations = metrics.get("correlation", {})
    for name, values in correlations.items():
        if values is not None:
            shown = " ".join(f"{v:+.3f}" for v in values[:5])
            cli.say(f"correlation with the truth, ell = 2-6, {name}: {shown}")
    for key in ("ks_mean", "ks_low", "skewness_error"):
        if key in metrics:
            cli.say(f"{key} {metrics[key]:.4f}")
    if "verdict" in metrics:
        cli.say(metrics["verdict"])


@cli.script
def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    check_arguments(parser, args)

    import torch

    import plots

    checkpoint = storage.load_checkpoint(args.model_checkpoint)
    sde, normalizer = checkpoint["sde"], checkpoint["normalizer"]
    check_sde(parser, args, sde)
    observed = truth = None
    n, start = args.num_samples or 10000, checkpoint["network_kwargs"]["n_ell"]
    if args.data_file_noisy:
        observed, truth = load_observations(args, checkpoint)
        n, start = len(observed.values), normalizer.normalize(torch.tensor(observed.values))
    if args.trajectory_index >= n:
        parser.error(f"--trajectory-index {args.trajectory_index}: there are {n} rows")
    names = ["denoised.npy" if observed else "generated.npy", "metrics.json", "examples.png"]
    names += ["trajectory.npy", "trajectory.png"] if args.plot_trajectories else []
    outputs = {name: os.path.join(args.out_dir, name) for name in names}
    storage.claim_outputs(outputs.values())
    device = cli.get_device(args.device)
    network = checkpoint["network"].to(device)
    step = solvers.SOLVERS[args.method].step
    if solvers.SOLVERS[args.method].corrected:
        step = solvers.with_corrector(
            step, args.corrector_steps or 1, args.corrector_step_size or 0.1
        )
    score_fn = solvers.CountedScore(sde_utils.make_score_fn(network, sde))

    began = time.monotonic()
    t_start = torch.tensor(args.t_start or 1.0, device=device)
    keep = args.trajectory_index if args.plot_trajectories else None
    bar_total = math.ceil(n / BLOCK_ROWS) * (args.num_steps + 2)
    with torch.no_grad(), cli.progress(total=bar_total, unit="step") as bar:
        x, states = run_reverse(
            step, score_fn, sde, start, n, t_start, args.num_steps, args.seed, device, keep, bar
        )
    if not x.isfinite().all():
        raise cli.DivergedError(
            f"--method {args.method}: {int((~x.isfinite().all(1)).sum())} of {n} spectra diverged; "
            "take more --num-steps or a smaller --t-start"
        )
    dl = normalizer.denormalize(x).numpy()
    if not np.isfinite(dl).all():
        raise cli.DivergedError(
            f"--method {args.method}: the output overflows D_ell; the reverse process started too "
            "far from the prior; try a smaller --t-start or --method sde"
        )
    metrics = {
        "method": args.method,
        "sde": {"name": type(sde).__name__[:2], **dataclasses.asdict(sde)},
        "num_steps": args.num_steps,
        "network_evaluations": score_fn.calls // math.ceil(n / BLOCK_ROWS),
        "seconds": round(time.monotonic() - began, 2),
        "num_samples": n,
        "seed": args.seed,
    }
    if truth is not None:
        metrics |= report_denoised(observed, truth, x.double().numpy(), dl, checkpoint)
    elif observed is None:
        metrics |= generated_metrics(dl, checkpoint["data"])

    ell = np.arange(2, 2 + dl.shape[1])
    row = args.trajectory_index
    signal = checkpoint["data"].get("dl_signal")
    signal = None if signal is None else np.array(signal)
    if observed is None:
        figure = plots.generated_examples(ell, dl, signal)
    else:
        corr = metrics.get("correlation", {})
        shown = corr if corr.get("denoised") else None
        limit = None if not shown or corr["limit"] is None else np.array(corr["limit"])
        truth_row = None if truth is None else truth.values[row]
        figure = plots.denoised_example(
            ell, observed.values[row], dl[row], truth_row, signal, shown, limit
        )
    metadata = {"quantity": "denoised BB" if observed else "generated BB", "unit": "uK^2"}
    metadata |= {key: metrics[key] for key in ("method", "sde", "num_steps", "seed")}
    storage.write_spectra(outputs[names[0]], dl, {**metadata, **storage.provenance(argv)})
    storage.write_json(outputs["metrics.json"], metrics)
    storage.write_figure(outputs["examples.png"], figure)
    if states is not None:
        storage.write_npy(outputs["trajectory.npy"], states)
        figure = plots.trajectory(states[:, 0], states[:, 1:], ell)
        storage.write_figure(outputs["trajectory.png"], figure)
    print_metrics(metrics)
    cli.say(f"wrote {', '.join(outputs.values())}")


if __name__ == "__main__":
    main()

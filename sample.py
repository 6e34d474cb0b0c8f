"""Run the reverse process: from an observed spectrum, or from the prior.

With --data-file-noisy it starts at the normalised observation, as the published recipe does,
and writes denoised.npy; what that output is worth stands in metrics.json and in one sentence on
stdout. Without, it generates new spectra and writes generated.npy. Reads the checkpoint of
train.py and the test set of data_generation.py. Writes into --out-dir the spectra, metrics.json,
examples.png, and with --plot-trajectories trajectory.npy (normalised states, first column
sigma/alpha) and trajectory.png.

Example:
  python sample.py --data-file-noisy data/dl_noisy_r0.001.npy \\
      --data-file-gt data/dl_gt_r0.001.npy --model-checkpoint model.pth --method sde
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
NUM_SAMPLES, CORRECTOR_STEPS, CORRECTOR_STEP_SIZE = 10000, 1, 0.1  # where no flag says otherwise


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
    group.add_argument(
        "--num-samples", type=cli.positive_int, help=f"spectra to generate (default: {NUM_SAMPLES})"
    )
    cli.add_sde_arguments(parser)
    group = parser.add_argument_group("reverse process")
    about = "; ".join(f"{k}: {v.about}, {v.num_steps} steps" for k, v in solvers.SOLVERS.items())
    group.add_argument("--method", choices=solvers.SOLVERS, default="sde", help=about)
    group.add_argument(
        "--num-steps",
        type=cli.positive_int,
        help="steps of the solver (default: as listed for --method)",
    )
    group.add_argument(
        "--t-start",
        type=cli.diffusion_time,
        help="time at which an observation enters (default: 1)",
    )
    group.add_argument(
        "--corrector-steps",
        type=cli.positive_int,
        help=f"pc: corrections after each step (default: {CORRECTOR_STEPS})",
    )
    group.add_argument(
        "--corrector-step-size",
        type=cli.positive_float,
        help=f"pc: their size in units of sigma(t) (default: {CORRECTOR_STEP_SIZE})",
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


def check_sde(parser, args, checkpoint):
    """Error where SDE flags contradict the checkpoint."""
    name, sde = checkpoint["sde_name"], checkpoint["sde"]
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


def make_step(args):
    """The solver's step, wrapped by the corrector where the method has one."""
    solver = solvers.SOLVERS[args.method]
    if not solver.corrected:
        return solver.step
    steps, size = args.corrector_steps or CORRECTOR_STEPS, args.corrector_step_size
    return solvers.with_corrector(solver.step, steps, size or CORRECTOR_STEP_SIZE)


def draw_samples(args, checkpoint, start, n, device):
    """Run the reverse process as the arguments say.

    Returns:
        (dl, x, states, record): D_ell in uK^2 and normalised x, both float64 arrays (n, n_ell);
        the states of one row or None; and a JSON-ready dict on how it went.

    Raises:
        DivergedError: If a spectrum is not finite.
    """
    import torch

    sde, blocks = checkpoint["sde"], math.ceil(n / BLOCK_ROWS)
    network = checkpoint["network"].to(device)
    score_fn = solvers.CountedScore(sde_utils.make_score_fn(network, sde))
    t_start = torch.tensor(args.t_start or 1.0, device=device)
    keep = args.trajectory_index if args.plot_trajectories else None
    run = (make_step(args), score_fn, sde, start, n, t_start, args.num_steps, args.seed, device)
    began = time.monotonic()
    with torch.no_grad(), cli.progress(total=blocks * (args.num_steps + 2), unit="step") as bar:
        x, states = run_reverse(*run, keep, bar)
    dl = checkpoint["normalizer"].denormalize(x).numpy()
    diverged = int((~np.isfinite(dl).all(1)).sum())
    if diverged:
        raise cli.DivergedError(
            f"--method {args.method}: {diverged} of {n} spectra diverged: the reverse process "
            "started too far from the prior; try a smaller --t-start or --method sde"
        )
    record = {
        "method": args.method,
        "sde": {"name": checkpoint["sde_name"], **dataclasses.asdict(sde)},
        "t_start": float(t_start),
        "num_steps": args.num_steps,
        "network_evaluations": score_fn.calls // blocks,
        "num_samples": n,
        "seed": args.seed,
    }
    return dl, x.double().numpy(), states, {**record, "seconds": time.monotonic() - began}


def example_figure(args, checkpoint, observed, truth, dl, report):
    """The figure of example spectra, denoised or generated."""
    import plots

    ell = np.arange(2, 2 + dl.shape[1])
    signal = checkpoint["data"].get("dl_signal")
    signal = None if signal is None else np.array(signal)
    if observed is None:
        return plots.generated_examples(ell, dl, signal)
    row, correlations = args.trajectory_index, report.get("correlation")
    truth_row = None if truth is None else truth.values[row]
    return plots.denoised_example(
        ell, observed.values[row], dl[row], truth_row, signal, correlations
    )


@cli.script
def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    check_arguments(parser, args)

    import torch

    import checkpoints
    import metrics
    import plots

    checkpoint = checkpoints.load(args.model_checkpoint)
    check_sde(parser, args, checkpoint)
    observed = truth = None
    n, start = args.num_samples or NUM_SAMPLES, checkpoint["network_kwargs"]["n_ell"]
    if args.data_file_noisy:
        observed, truth = load_observations(args, checkpoint)
        n = len(observed.values)
        start = checkpoint["normalizer"].normalize(torch.tensor(observed.values))
    if args.trajectory_index >= n:
        parser.error(f"--trajectory-index {args.trajectory_index}: there are {n} rows")
    table = "denoised.npy" if observed else "generated.npy"
    names = [table, "metrics.json", "examples.png"]
    names += ["trajectory.npy", "trajectory.png"] if args.plot_trajectories else []
    outputs = {name: os.path.join(args.out_dir, name) for name in names}
    device = cli.get_device(args.device)
    storage.claim_outputs(outputs.values())

    dl, x, states, report = draw_samples(args, checkpoint, start, n, device)
    metadata = {"quantity": f"{table[:-4]} BB", "unit": "uK^2", **report}
    if truth is not None:
        report |= metrics.compare_with_truth(observed, truth, x, dl, checkpoint)
    elif observed is None:
        report |= metrics.compare_with_law(dl, checkpoint["data"])

    storage.write_spectra(outputs[table], dl, {**metadata, **storage.provenance(argv)})
    storage.write_json(outputs["metrics.json"], report)
    figure = example_figure(args, checkpoint, observed, truth, dl, report)
    storage.write_figure(outputs["examples.png"], figure)
    if states is not None:
        storage.write_npy(outputs["trajectory.npy"], states)
        figure = plots.trajectory(states[:, 0], states[:, 1:], np.arange(2, 2 + dl.shape[1]))
        storage.write_figure(outputs["trajectory.png"], figure)
    metrics.print_report(report)
    cli.say(f"wrote {', '.join(outputs.values())}")


if __name__ == "__main__":
    main()

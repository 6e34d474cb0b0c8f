"""How much of the machine's matrix-product rate training and sampling reach.

On the CPU training steps and network evaluations take turns with their own matrix
products, alone: the same shapes and layouts, forward and backward, recorded from one pass. The
fraction is the median ratio of the two times. A second table shows where the time of an
evaluation goes, and --compile what torch.compile would gain. On a GPU it measures throughput
against batch size, and its fraction of the roofline: the lesser of the peak rate of a large product
and of the bandwidth of a large copy times the counted operations per byte. Rewrites its section of
benchmarks/RESULTS.md.

Examples:
  python -m benchmarks.machine --compile
  python -m benchmarks.machine --device cuda
"""

import statistics
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import model
import sde_utils
from benchmarks import report
from diffusion import dataset, solvers, trainer
from diffusion.dynamics import Dynamics, Frame
from diffusion.settings import TrainingSettings
from runtime import cli, console, devices

N_ELL = 30
POSTERIOR = {"n_cond": N_ELL, "n_param": 1, "hidden_dim": 128, "num_layers": 2}  # of the Makefile
CASES: tuple[tuple[str, dict, int], ...] = (
    ("default", {}, 128),
    ("default", {}, 1024),
    ("posterior", POSTERIOR, 1024),
)
TURNS, STEPS = 11, 10
BATCH_SIZES = (10**3, 10**4, 10**5, 10**6)
OPERATORS = {  # of an evaluation, by what they are
    "products": ("aten::addmm", "aten::mm"),
    "silu": ("aten::silu",),
    "LayerNorm": ("aten::native_layer_norm",),
}
LARGE = 8192  # side of the square product, and root of the length of the copy, of the roofline


class Recorder(TorchDispatchMode):
    """Keeps the factors of all matrix products, and counts the bytes that operations move."""

    def __init__(self):
        super().__init__()
        self.products, self.bytes = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.products.append(tuple(factor.detach() for factor in args[-2:]))
        if not func.is_view:
            tensors = [v for v in tree_leaves((args, kwargs, result)) if torch.is_tensor(v)]
            self.bytes += sum(v.numel() * v.element_size() for v in tensors)
        return result

    def flops(self):
        """Floating-point operations of the products, two for each multiplication."""
        return sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in self.products)

    @torch.no_grad()
    def replay(self):
        """Do the products again, and nothing else."""
        for a, b in self.products:
            torch.mm(a, b)


def seconds(function, device):
    """Seconds that a call takes; on a GPU between two events, with one wait at the end."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def make_case(kwargs, rows, device):
    """(network, x, y): random rows for a network of these sizes."""
    network = model.ScoreNet1D(sde_utils.VESDE(), model.Architecture(N_ELL, **kwargs)).to(device)
    x = torch.randn(rows, N_ELL + kwargs.get("n_param", 0), device=device)
    return network, x, torch.randn(rows, N_ELL, device=device) if kwargs else None


def record_training(network, x, y):
    """Recorder of one forward and backward pass of train.py."""
    generator = torch.Generator(x.device).manual_seed(0)
    with Recorder() as recorder:
        sde_utils.denoising_loss(network, network.sde, x, generator, y).backward()
    network.zero_grad()
    return recorder


def training_steps(network, x, y, precision="float32"):
    """Callable that takes STEPS steps of train.py, each on all rows of x and y."""
    values = x if y is None else torch.cat([x, y], 1)
    rows = dataset.Rows(values, x.shape[1], x.device)
    settings = TrainingSettings(len(x), epochs=10**6, precision=precision)
    training = trainer.Trainer(network, rows, lambda network: 0.0, settings)
    index = torch.arange(len(x), device=x.device)

    def steps():
        for number in range(STEPS):
            training.take_step(number, index)

    return steps


def fraction_reached(ours, recorder):
    """(fraction of the products' rate, that rate in FLOP/s) of STEPS passes, taken in turns."""

    def products():
        for _ in range(STEPS):
            recorder.replay()

    laps = [(seconds(ours, "cpu"), seconds(products, "cpu")) for _ in range(TURNS + 1)][1:]
    rate = STEPS * recorder.flops() / statistics.median(lap[1] for lap in laps)
    return statistics.median(products / own for own, products in laps), rate


def training_fraction(kwargs, batch, prepare):
    """`fraction_reached` by training steps on the CPU, of the network that `prepare` returns."""
    network, x, y = make_case(kwargs, batch, "cpu")
    recorder = record_training(network, x, y)
    return fraction_reached(training_steps(prepare(network), x, y), recorder)


@torch.no_grad()
def sampling_fraction(kwargs, rows, prepare):
    """`fraction_reached` by evaluations on the CPU, of the network that `prepare` returns."""
    network, x, y = make_case(kwargs, rows, "cpu")
    t = torch.tensor(0.5)
    with Recorder() as recorder:
        network(x, t, y)
    network = prepare(network)

    def evaluations():
        for _ in range(STEPS):
            network(x, t, y)

    return fraction_reached(evaluations, recorder)


def fractions(compiled):
    """Table of the fractions on the CPU; where `compiled`, also with torch.compile (minutes)."""
    prepared = {"fraction reached": lambda network: network}
    if compiled:
        prepared["with torch.compile"] = torch.compile
    rows = []
    for name, kwargs, batch in CASES:
        for task, measure in (("training", training_fraction), ("sampling", sampling_fraction)):
            values = [measure(kwargs, batch, prepare) for prepare in prepared.values()]
            row = [task, name, str(batch), f"{values[0][1] / 1e9:.0f}"]
            rows.append(row + [f"{fraction:.2f}" for fraction, _ in values])
    return report.table(["task", "network", "rows", "products alone, GFLOP/s", *prepared], rows)


@torch.no_grad()
def shares():
    """Table of where the time of an evaluation on the CPU goes."""
    rows = []
    for name, kwargs, batch in CASES:
        network, x, y = make_case(kwargs, batch, "cpu")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(STEPS):
                network(x, torch.tensor(0.5), y)
        spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
        parts = [sum(spent.get(key, 0) for key in keys) for keys in OPERATORS.values()]
        parts = [part / sum(spent.values()) for part in parts]
        rows.append([name, str(batch), *(f"{part:.2f}" for part in (*parts, 1 - sum(parts)))])
    return report.table(["network", "rows", *OPERATORS, "the rest"], rows)


def roofline(device):
    """(peak FLOP/s of a large product in this context, bytes/s of a large copy)."""
    a, b = torch.randn(2, LARGE, LARGE, device=device)
    times = [
        (seconds(lambda: a @ b, device), seconds(lambda: a.copy_(b), device)) for _ in range(5)
    ]
    product, copied = (min(column) for column in zip(*times, strict=True))
    return 2 * LARGE**3 / product, 2 * a.numel() * a.element_size() / copied


def throughput(task, precision, compiled, rows, device):
    """(rows per second, fraction of the roofline) of training, or of draws of the ODE."""
    with devices.autocast(torch.device(device), precision):
        peak, bandwidth = roofline(device)
        network, x, y = make_case({}, rows, device)
        faster = torch.compile(network, mode="reduce-overhead") if compiled else network
        if task == "training":
            recorder, passes = record_training(network, x, y), 1
            steps = training_steps(faster, x, y, precision)
            steps()  # which compiles
            duration = statistics.median(seconds(steps, device) for _ in range(3)) / STEPS
        else:
            solver, one = solvers.SOLVERS["ode"], torch.ones(())
            velocity_fn, frame = sde_utils.make_velocity_fn(faster), Frame.of(network.start)
            dynamics = Dynamics(network.sde, velocity_fn, frame=frame, from_noise=True)
            times = sde_utils.reverse_times(network.sde, one, solver.num_steps)

            def draw():
                return solvers.integrate(solver.step, dynamics, x, times)

            with torch.no_grad():
                with Recorder() as recorder:
                    network(x, one.to(device))
                passes = draw().evaluations  # which compiles
                duration = statistics.median(seconds(draw, device) for _ in range(3))
    limit = min(peak, bandwidth * recorder.flops() / recorder.bytes)
    return rows / duration, passes * recorder.flops() / duration / limit


def throughputs(device):
    """Table of throughput against batch size."""
    rows = []
    for task in ("training", "draws"):
        for precision in devices.PRECISIONS:
            for compiled in (False, True) if device == "cuda" else (False,):
                for batch in BATCH_SIZES:
                    rate, fraction = throughput(task, precision, compiled, batch, device)
                    how = "compiled, CUDA graph" if compiled else "eager"
                    rows.append(
                        [task, precision, how, str(batch), f"{rate:.3g}", f"{fraction:.2f}"]
                    )
    header = ["task", "precision", "how", "rows", "rows per second", "fraction of the roofline"]
    return report.table(header, rows)


def main(argv=None):
    """Measure, print, and write the section."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what to measure")
    parser.add_argument(
        "--compile", action="store_true", help="also with torch.compile, on the CPU"
    )
    args = parser.parse_args(argv)
    device = devices.get_device(args.device)
    command = f"python -m benchmarks.machine --device {device}"
    if str(device) == "cuda":
        measured = throughputs("cuda")
    else:
        command += " --compile" * args.compile
        gpu = "GPU: not measured; `python -m benchmarks.machine --device cuda` does."
        share = "Shares of the time of an evaluation:"
        measured = "\n\n".join([fractions(args.compile), share, shares(), gpu])
    console.print_result(measured)
    name = "machine" if str(device) == "cpu" else "machine-cuda"
    head = f"## Machine: {device}\n\n`{command}`; {report.machine()}."
    report.write_section(name, f"{head}\n\n{measured}")


if __name__ == "__main__":
    main()

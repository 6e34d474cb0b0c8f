"""How much slower train.py and sample.py are than the bare network calls on the same tensors.

Each pair is timed in turn, several times, and the median of the ratios is printed.

Example:
  python -m benchmarks.overhead
"""

import statistics
import time

import torch

import model
import sde_utils
from diffusion import baseline, dataset, solvers, trainer
from diffusion.blocks import BATCH_ROWS, Blocks
from diffusion.held_out import HeldOutLoss
from diffusion.sampling import ReverseProcess, SolverSettings
from diffusion.settings import TrainingSettings
from model import Architecture
from runtime import console

REPEATS = 5
ROWS, N_ELL, BATCH, EPOCHS = 10000, 30, 128, 2


def ratios(ours, bare):
    """Median of ours/bare over turns A B A B ..., after one turn that is not counted."""
    result = []
    for _ in range(REPEATS + 1):
        times = []
        for function in (ours, bare):
            began = time.perf_counter()
            function()
            times.append(time.perf_counter() - began)
        result.append(times[0] / times[1])
    return statistics.median(result[1:])


def train(sde):
    x = torch.randn(ROWS, N_ELL)
    settings = TrainingSettings(BATCH, EPOCHS)
    rows, rows_val = (dataset.Rows(v, N_ELL, torch.device("cpu")) for v in (x, x[:500]))
    moments = baseline.second_moments(rows.blocks())
    linear = baseline.LinearDenoiser(sde, moments, N_ELL)

    def ours():
        network = model.ScoreNet1D(sde, Architecture(N_ELL))
        with console.progress(disable=True) as bar:
            held_out = HeldOutLoss(linear, rows_val, 0)
            trainer.Trainer(network, rows, held_out, settings).train(lambda: None, bar)

    def bare():
        network = model.ScoreNet1D(sde, Architecture(N_ELL))
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        batch = x[:BATCH].repeat(trainer.noise_draws(BATCH, EPOCHS * (ROWS // BATCH)), 1)
        batch = batch.unflatten(0, (-1, sde_utils.LEVEL_ROWS))
        t = torch.full((len(batch), 1), 0.5)
        for _ in range(EPOCHS * (ROWS // BATCH)):
            loss = network(batch, t).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return ratios(ours, bare)


def sampling(sde, method, num_steps=100):
    network = model.ScoreNet1D(sde, Architecture(N_ELL)).requires_grad_(False)
    settings, cpu = SolverSettings(method, num_steps), torch.device("cpu")
    process = ReverseProcess(Architecture(N_ELL), sde, network, network.start, settings, cpu)
    one, rows = torch.ones(()), BATCH_ROWS
    blocks = Blocks(2 * rows, 1, rows)

    def ours():
        return [process.block(blocks, number).cost for number in range(len(blocks))]

    evaluations = sum(cost.evaluations for cost in ours())

    def bare():
        x = torch.randn(rows, N_ELL)
        with torch.no_grad():
            for _ in range(evaluations):
                network(x, one)

    return ratios(ours, bare)


def main():
    for name, sde in sde_utils.SDES.items():
        print(f"training, {name}: {train(sde()):.3f} x the bare forward/backward/step loop")
        for method in solvers.SOLVERS:
            print(f"sampling, {name}, {method}: {sampling(sde(), method):.3f} x the bare calls")


if __name__ == "__main__":
    main()

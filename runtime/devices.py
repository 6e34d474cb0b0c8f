"""Devices, threads and precision of PyTorch."""

import contextlib
import os
import re
import textwrap
from typing import TYPE_CHECKING

from runtime import processes
from runtime.errors import InputError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "tf32", "bf16")
MAX_THREADS = 1024  # of a process
MAX_REASON = 100  # characters of what PyTorch says


def num_threads(threads: int | None) -> int:
    """CPU threads of this process: `threads`, else OMP_NUM_THREADS, else its share of the cores.

    Raises:
        InputError: If there are more than `MAX_THREADS`.
    """
    if threads is not None and threads > MAX_THREADS:  # too many end the process without a word
        raise InputError(f"--threads {threads}: at most {MAX_THREADS}")
    if threads is not None:
        return threads
    if processes.local_world_size() == 1:  # torchrun sets it to 1 where nobody did
        with contextlib.suppress(KeyError, ValueError):  # it may be a list, of nested loops
            return min(MAX_THREADS, max(1, int(os.environ["OMP_NUM_THREADS"].partition(",")[0])))
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, cores // processes.local_world_size())


def set_threads(threads: int | None, device: "torch.device") -> int:
    """Threads among which work on a device is to be shared, see `num_threads`; 1 on a GPU.

    On a CPU each of them computes its products alone: threads that share a product wait for the
    slowest, at every product, which is long where another program has its core.
    """
    import torch

    number, on_cpu = num_threads(threads), device.type == "cpu"
    torch.set_num_threads(1 if on_cpu else number)
    return number if on_cpu else 1


def count_threads(number: int) -> str:
    """A number of threads in words."""
    return f"{number} thread{'s' * (number > 1)}"


def autocast(device: "torch.device", precision: str) -> "torch.autocast":
    """Context in which the network's matrix products have a precision out of `PRECISIONS`."""
    import torch

    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def get_device(name: str) -> "torch.device":
    """torch.device for --device; InputError where it is unknown or not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.world_size() > 1:
        name = f"cuda:{processes.local_rank()}"
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d{1,3})?", name):
        name = textwrap.shorten(name, MAX_REASON) or "''"
        raise InputError(f"--device {name}: is none of auto, cpu, cuda, cuda:N and mps")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {name}: PyTorch sees no GPU here; try --device cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = textwrap.shorten(str(error).partition("\n")[0], MAX_REASON)
        raise InputError(f"--device {name}: not usable here ({reason}); try --device cpu") from None
    return device

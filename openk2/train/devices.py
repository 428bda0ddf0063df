"""What a training device can do: published peaks, memory and prices, and the measured peak of whatever is here."""

from __future__ import annotations

import functools
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openk2.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """One accelerator. flops: dense bf16 products a second; memory and bandwidth in bytes and bytes a second.

    price: dollars an hour of one device when rented, or None where no market was found; `price_source` says whose
    figure that is, and of which date. Prices move by a factor of two within a year: give your own with --price.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    price: float | None
    price_source: str


# Peaks without sparsity, memory and bandwidth from the makers' data sheets (SXM or OAM modules).
DEVICES = {
    device.name.lower(): device
    for device in (
        Device("A100", 312e12, 80e9, 2.04e12, 1.30, "specialised clouds, mercatus-ai.com, May 2026"),
        Device("H800", 989e12, 80e9, 3.35e12, 2.00, "the rate that DeepSeek-V3's report assumes, December 2024"),
        Device("H100", 989e12, 80e9, 3.35e12, 2.95, "median of 37 clouds, aimultiple.com, 20 May 2026"),
        Device("H200", 989e12, 141e9, 4.8e12, 4.00, "specialised clouds, mercatus-ai.com, May 2026"),
        Device("B200", 2250e12, 180e9, 8e12, 4.50, "smaller clouds, ornnai.com, 2026"),
        Device("MI300X", 1307e12, 192e9, 5.3e12, 1.99, "median, cliffcenter.com, 18 May 2026"),
    )
}


def device(name: str) -> Device:
    """A device by name, or `cpu`: this machine, measured. Raises UserError naming those that are known."""
    if name.lower() == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device("CPU", peak_flops("cpu"), float(memory), 0.0, 0.0, "this machine")
    if name.lower() not in DEVICES:
        known = ", ".join(d.name for d in DEVICES.values())
        raise UserError(f"There is no device {name!r}; use cpu, or one of {known}.")
    return DEVICES[name.lower()]


def parse_devices(text: str) -> tuple[int, str]:
    """`256xH800`, `H100` or `cpu` -> how many and which. Raises UserError when it is neither."""
    match = re.fullmatch(r"(?:(\d+) ?[x×*])? ?(\w+)", text.strip(), re.IGNORECASE)
    if not match or match[1] == "0":
        raise UserError(f"{text!r} is no number of devices; write it as 8xH100, or cpu.")
    return int(match[1] or 1), match[2]


def choose(name: str = "auto") -> torch.device:
    """The torch device for `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises UserError when there is no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError):
        raise UserError(f"There is no device {name!r} that torch can use here; take --device auto or cpu.") from None
    return found


def peak_flops(device: torch.device | str) -> float:
    """bf16 operations a second of one device at most: published for a known accelerator, else measured once.

    A CPU counts with all cores that this process may use.
    """
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device).lower()
        for key, known in DEVICES.items():
            if key in name:
                return known.flops
    return _measured(str(device))


@functools.cache
def _measured(name: str) -> float:
    """The best of some bf16 products of 2048 x 2048 matrices."""
    import torch

    size, device, threads = 2048, torch.device(name), torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        with torch.no_grad():
            a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
            best = float("inf")
            for _ in range(6):
                start = time.perf_counter()
                (a @ a).sum().item()  # the value is read: the product has ended
                best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 2 * size**3 / best

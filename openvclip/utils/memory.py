"""Memory that a process uses, on the machine and on its GPU."""

from __future__ import annotations

import psutil
import torch


def resident_memory() -> float:
    """Return the memory that this process uses, in GiB."""
    return psutil.Process().memory_info().rss / 2**30


def peak_gpu_memory(device: torch.device) -> float:
    """Return the most memory that this process has used on its GPU, in GiB."""
    return torch.cuda.max_memory_allocated(device) / 2**30


def memory_stats(device: torch.device) -> dict[str, str]:
    """Peak GPU memory and this process's resident memory, as PySlowFast's log names them."""
    total = psutil.virtual_memory().total / 2**30
    stats = {"RAM": f"{resident_memory():.2f}/{total:.2f}G"}
    if device.type == "cuda":
        stats["gpu_mem"] = f"{peak_gpu_memory(device):.2f}G"
    return stats

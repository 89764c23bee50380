"""Running functions in separate processes, so that their peak memory is theirs alone."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TOOLS = Path(__file__).resolve().parents[1]


def run_apart(
    function: Callable[..., dict[str, Any]], *, threads: int, checkout: Path = TOOLS.parent,
    **arguments: Any,
) -> dict:
    """Call a module's function in a new process.

    Args:
        function: found by its module and name; its arguments and what it returns go through JSON.
        threads: torch's threads in that process.
        checkout: the folder whose package openvclip it imports.
        arguments: the function's arguments.

    Returns:
        What the function returned, and ``peak_bytes``: how far the process's memory rose above
        what it held once everything was imported.

    Raises:
        RuntimeError: the process failed.
    """
    order = {"module": function.__module__, "name": function.__name__, "threads": threads,
             "arguments": arguments}
    paths = [str(checkout), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.apart"], cwd=TOOLS, input=json.dumps(order), text=True,
        stdout=subprocess.PIPE, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    if done.returncode:
        raise RuntimeError(f"{function.__name__} {arguments}: exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> int:
    """Return the peak memory of this process in bytes, including mapped files."""
    # A new process inherits the peak of the one that started it in getrusage, but not here.
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Run the order on standard input."""
    order = json.load(sys.stdin)
    function = getattr(importlib.import_module(order["module"]), order["name"])
    torch.set_num_threads(order["threads"])
    before = peak_memory()
    result = function(**order["arguments"])
    print(json.dumps({**result, "peak_bytes": peak_memory() - before}))


if __name__ == "__main__":
    main()

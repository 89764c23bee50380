"""Starts runs of ``tools/run_net.py`` by forking, so that torch is imported once for all of them.

Reads one JSON request a line from stdin and answers with one line each:
``{"argv": [...], "log": path, "env": {...}, "file_limit": bytes or null}`` starts a run, answered
by its process id (with HELD_VIDEO in ``env`` it waits there, see integration/held);
``{"wait": pid}`` is answered by its exit code, negative for a signal.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import run_net  # noqa: E402
import torch._dynamo  # noqa: E402, F401
import torch.distributed.nn  # noqa: E402, F401

# What a run imports first, and the seconds that making an optimizer and a process group imports.
import openvclip.launch.run  # noqa: E402, F401


def start(request: dict) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(request["env"])
        runpy.run_path(str(ROOT / "tests" / "integration" / "held" / "sitecustomize.py"))
        if request["file_limit"]:
            limit = request["file_limit"]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = run_net.main(request["argv"])
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    print(0, flush=True)  # imported and ready
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = start(request)
        print(answer, flush=True)


if __name__ == "__main__":
    main()

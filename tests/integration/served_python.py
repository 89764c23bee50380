"""A python for programs that tests start, which need not import torch each time.

The server imports it once and forks a process for each program; the ``python`` that is put into
PATH hands the server its arguments, folder, environment and files, and leaves with the program's
exit code. Nothing else differs from starting python.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

# Not in the file's first line: python's path may have spaces, or be too long for one.
SHELL = """#!/bin/sh
exec {python} -IS {client} "$@"
"""
# The program that an installation puts beside its python.
PROGRAM = """#!/bin/sh
exec "$(dirname "$0")/python" -c 'import sys
from openvclip.commands import main
sys.exit(main())' "$@"
"""
CLIENT = """
import json, os, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({path!r})
socket.send_fds(link, [b"x"], [0, 1, 2])
link.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
link.shutdown(socket.SHUT_WR)
sys.exit(int(link.recv(16) or 1))
"""


def start_server(clone: Path, folder: Path) -> subprocess.Popen:
    """Start the server, with ``python`` and ``python3`` in ``folder``/bin."""
    path = os.path.join(tempfile.mkdtemp(), "socket")  # a socket's path has 107 bytes at most
    (folder / "bin").mkdir()
    client = folder / "client.py"
    client.write_text(CLIENT.format(path=path), encoding="utf-8")
    for name in ("python", "python3"):
        file = folder / "bin" / name
        file.write_text(SHELL.format(python=shlex.quote(sys.executable),
                                     client=shlex.quote(str(client))), encoding="utf-8")
        file.chmod(0o755)
    program = folder / "bin" / "openvclip"
    program.write_text(PROGRAM, encoding="utf-8")
    program.chmod(0o755)
    env = {**os.environ, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    server = subprocess.Popen([sys.executable, __file__, path], env=env, cwd=clone, text=True,
                              stdout=subprocess.PIPE)
    assert server.stdout.readline() == "ready\n"
    return server


def serve(path: str) -> None:
    # Dynamo is what the first step of an optimizer imports.
    for module in ("torch._dynamo", "openvclip.launch.run", "openvclip.report.plots"):
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while True:
        link, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(answer(link))
        link.close()


def answer(link: socket.socket) -> int:
    """Run what a client asks for in a process of its own and tell the client how it ended."""
    _, files, *_ = socket.recv_fds(link, 1, 3)
    request = b"".join(iter(lambda: link.recv(1 << 16), b""))
    process = os.fork()
    if process == 0:
        link.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
        os._exit(execute(*json.loads(request)))
    _, status = os.waitpid(process, 0)
    link.sendall(str(abs(os.waitstatus_to_exitcode(status))).encode())
    return 0


def execute(argv: list[str], folder: str, env: dict[str, str]) -> int:
    """Do what ``python ARGV`` does; returns its exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    # The server's own streams remember what kind of file they were opened on.
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    code: object = 0
    try:
        if argv[0] == "-c":
            sys.argv = ["-c", *argv[2:]]
            exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = argv
            sys.path[0] = str(Path(argv[0]).resolve().parent)
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    serve(sys.argv[1])

"""What every tool goes through: one line for what went wrong, Ctrl-C, and output that is gone."""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openvclip.utils.command_line import Parser, run_tool
from openvclip.utils.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[2]
# Most files of tools/ call the main function of a command, and do nothing else.
TOOLS = sorted([*ROOT.glob("openvclip/commands/*.py"), *(
    path for path in ROOT.glob("tools/*.py")
    if "from openvclip.commands." not in path.read_text("utf-8"))])
BEGIN = ("import os, signal, sys, time\n"
         "from openvclip.utils.command_line import run_tool\n"
         "from openvclip.utils.logging import get_logger\n")


def take_interrupts() -> None:
    """A shell that runs the tests in the background has SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(repo):
    """Run code in a Python of its own that takes Ctrl-C."""

    def run(code: str, **options):
        return subprocess.run(
            [sys.executable, "-c", BEGIN + code], cwd=repo, stdin=subprocess.DEVNULL, text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60,
               "preexec_fn": take_interrupts, **options},
        )

    return run


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_every_tool_goes_through_it(tool):
    text = tool.read_text("utf-8")
    assert "run_tool(" in text and "KeyboardInterrupt" not in text
    # Nothing that takes time is imported before Ctrl-C is taken care of.
    before = text[:text.index("run_tool\n")]
    assert not re.search(r"import (torch|numpy|av)|from openvclip\.(?!utils)", before)


def raising(error):
    def work():
        raise error
    return work


@pytest.mark.parametrize(("error", "line"), [
    (DataError("no list"), "DataError: no list"),
    (OSError(28, "No space left on device", "/x/y"), "OSError: /x/y: No space left on device"),
    (OSError(28, "No space left on device"), "OSError: No space left on device"),
])
def test_errors_that_a_user_can_act_on_are_one_line(capfd, error, line):
    assert run_tool(raising(error)) == 2
    out, err = capfd.readouterr()
    assert out.endswith(f"[ERROR] {line}\n") and out.count("\n") == 1 and not err


def test_other_errors_and_exits_pass():
    with pytest.raises(RuntimeError):
        run_tool(raising(RuntimeError("a bug")))
    with pytest.raises(SystemExit):
        run_tool(raising(SystemExit(75)))
    assert run_tool(lambda: None) == 0 and run_tool(lambda: 3) == 3


PRESS = "os.kill(os.getpid(), signal.SIGINT); time.sleep(30)"


@pytest.mark.parametrize("work", [
    PRESS,
    # As an import that is interrupted may say it.
    f"\n    try: {PRESS}\n    except KeyboardInterrupt: raise ImportError('half of it')",
    f"\n    class Noisy:\n        def __del__(self): raise ValueError('never said')\n"
    f"    noisy = Noisy()\n    {PRESS}",
])
def test_an_interrupt_is_one_line_and_130(start, work):
    found = start(f"def work(): {work}\nsys.exit(run_tool(work, 'all is kept'))")
    assert found.returncode == 130
    assert found.stdout.endswith("[WARNING] stopped by Ctrl-C: all is kept\n")
    assert found.stdout.count("\n") == 1 and found.stderr == ""


def test_a_second_interrupt_ends_what_does_not_end(start):
    found = start(
        "from openvclip.utils import interrupts\n"
        "interrupts.SAME_PRESS = -1.0\n"
        "def work():\n"
        "    try: os.kill(os.getpid(), signal.SIGINT); time.sleep(30)\n"
        "    finally: os.kill(os.getpid(), signal.SIGINT); time.sleep(30)\n"
        "run_tool(work)\n")
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "stopped immediately\n")


def test_one_press_that_arrives_twice_is_one(start):
    found = start(
        "from openvclip.utils import interrupts\n"
        "interrupts.SAME_PRESS = 1e9\n"
        "def work():\n"
        "    try: os.kill(os.getpid(), signal.SIGINT); time.sleep(30)\n"
        "    except KeyboardInterrupt: pass\n"
        "    try: os.kill(os.getpid(), signal.SIGINT); time.sleep(30)\n"
        "    finally: get_logger().info('written')\n"
        "sys.exit(run_tool(work))\n")
    assert found.returncode == 130 and "written" in found.stdout and not found.stderr


def test_an_interrupt_that_is_ignored_stays_so(start):
    found = start("def work(): os.kill(os.getpid(), signal.SIGINT)\nsys.exit(run_tool(work))",
                  preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert (found.returncode, found.stdout) == (0, "")


def test_a_forked_child_leaves_it_to_its_parent(start):
    found = start(
        "def work():\n"
        "    pid = os.fork()\n"
        "    if pid == 0: os.kill(os.getpid(), signal.SIGINT); os._exit(7)\n"
        "    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "sys.exit(run_tool(work))\n")
    assert (found.returncode, found.stdout, found.stderr) == (7, "", "")


@pytest.mark.parametrize("tool", sorted(ROOT.glob("tools/*.py")), ids=lambda path: path.stem)
def test_an_interrupt_before_the_work_is_one_line(repo, tool, tmp_path):
    """A tool's own imports: the first of the project's modules after the guard presses Ctrl-C."""
    code = (
        "import os, runpy, signal, sys\n"
        "class Press:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'openvclip.utils.output': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Press())\n"
        f"sys.argv = [{str(tool)!r}]\n"
        f"runpy.run_path({str(tool)!r}, run_name='__main__')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        stdin=subprocess.DEVNULL, preexec_fn=take_interrupts,
        env={**os.environ, "PYTHONPATH": str(repo)},
    )
    assert (found.returncode, found.stdout) == (130, "")
    assert found.stderr == "stopped before anything was begun\n"


# ---- Output ------------------------------------------------------------------------------------
TALK = ("def work():\n"
        "    for i in range(20000): print('line', i)\n"
        "    get_logger().info('logged')\n"
        "    open(sys.argv[1], 'w').write('done')\n"
        "sys.exit(run_tool(work))\n")


def talk(tmp_path, repo, redirect: str, code: str = TALK):
    path = tmp_path / "talk.py"
    path.write_text(BEGIN + code)
    script = f'"$0" "$1" "$2" {redirect}; echo "code ${{PIPESTATUS[0]}}" >&2'
    return subprocess.run(
        ["bash", "-c", script, sys.executable, path, tmp_path / "done"], capture_output=True,
        text=True, timeout=60, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(repo)},
    )


@pytest.mark.parametrize("redirect", ["| head -1", ">&-", "<&- >&- 2>/dev/null"])
def test_output_that_nobody_reads_does_not_stop_the_work(tmp_path, repo, redirect):
    found = talk(tmp_path, repo, redirect)
    assert (tmp_path / "done").read_text() == "done", "no file took standard output's place"
    assert found.stderr == "code 0\n"
    assert found.stdout == ("line 0\n" if "head" in redirect else "")


@pytest.mark.parametrize("code", [TALK, TALK.replace("20000", "1")])  # full at once; at the end
def test_output_that_cannot_be_written_is_said_once(tmp_path, repo, code):
    found = talk(tmp_path, repo, "> /dev/full", code)
    assert (tmp_path / "done").read_text() == "done"
    assert found.stderr == ("standard output: No space left on device; nothing more is printed "
                            "there, the work continues and its results are written\ncode 2\n")


def test_help_that_cannot_be_written_is_said_too(tmp_path, repo):
    """A file that may not grow stands in for a full disk."""
    code = ("from openvclip.utils.command_line import Parser\n"
            "import resource\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
            "sys.exit(run_tool(lambda: Parser().parse_args(['--help'])))\n")
    found = talk(tmp_path, repo, f"> {shlex.quote(str(tmp_path / 'full'))}", code)
    assert found.stderr.startswith("standard output: File too large; nothing more")
    assert found.stderr.endswith("\ncode 2\n") and found.stderr.count("\n") == 2
    assert talk(tmp_path, repo, "", code).stderr == "code 0\n"



def test_an_error_is_still_said_where_output_is_closed(tmp_path, repo):
    code = ("from openvclip.utils.errors import DataError\n"
            "def work(): raise DataError('no list')\n"
            "sys.exit(run_tool(work))\n")
    assert talk(tmp_path, repo, ">&-", code).stderr == "DataError: no list\ncode 2\n"


def test_a_log_file_that_is_full_is_said_once(start, tmp_path):
    def bounded():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))

    found = start(
        "from openvclip.utils.logging import setup_logging\n"
        "def work():\n"
        f"    setup_logging({str(tmp_path)!r})\n"
        "    for i in range(30): get_logger().info('line %d', i)\n"
        "sys.exit(run_tool(work))\n", preexec_fn=bounded)
    assert found.returncode == 0 and found.stderr == ""
    assert found.stdout.count("can no longer be written: File too large") == 1
    assert found.stdout.count("INFO") == 30


# ---- Command lines -----------------------------------------------------------------------------
def make_parser() -> Parser:
    parser = Parser(prog="x")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("go")
    command.add_argument("--count", type=int)
    command.add_argument("--share", type=float)
    command.add_argument("--opts", nargs="...")
    return parser


@pytest.mark.parametrize(("args", "said"), [
    (["--count", "9" * 5000], r"argument --count: 999.*\.\.\. \(5,000 characters\) is not a whole"),
    (["--count", "9" * 4000], r"4,000 characters"),
    (["--count", str(2**63)], r"is not a whole number up to 9223372036854775807"),
    (["--count", "1.5"], r"argument --count: 1.5 is not a whole number"),
    (["--share", "1" * 500], r"500 characters\) is not a finite number"),
    (["--share", "nan"], r"nan is not a finite number"),
    (["--cuont", "1"], r"there is no option --cuont; the nearest is --count"),
    (["--" + "c" * 5000], r"there is no option --ccc.*\(5,002 characters\)"),
    (["--count"], r"expected one argument"),
])
def test_what_is_wrong_with_a_subcommand_is_one_line(args, said):
    with pytest.raises(ConfigError, match=said) as found:
        make_parser().parse_args(["go", *args])
    assert "\n" not in str(found.value) and len(str(found.value)) < 300


def test_options_behind_the_rest_are_not_looked_at():
    args = make_parser().parse_args(["go", "--count", "-3", "--opts", "A", "--b"])
    assert (args.count, args.opts) == (-3, ["A", "--b"])


def test_the_program_leaves_quietly_from_its_first_import_on(repo, tmp_path):
    program = tmp_path / "openvclip"
    program.write_text("import os, signal, openvclip.commands\n"
                       "os.kill(os.getpid(), signal.SIGINT)\n")
    # Started where SIGINT is ignored, as in the background, it would stay so.
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(repo)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert (done.returncode, done.stderr.count("\n")) == (130, 1), done.stderr

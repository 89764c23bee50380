"""What the shell, terminal or batch system that started the tests must not decide."""

from __future__ import annotations

import os
import signal

# A terminal's width and colours, a batch job that the tests run in, a run that started them.
FOREIGN = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PYTHON_COLORS", "RANK", "WORLD_SIZE",
           "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
FOREIGN_PREFIXES = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_", "TORCHELASTIC_")

# A shell ignores SIGINT and SIGQUIT for what it runs in the background, nohup ignores SIGHUP, and
# whoever runs the shell may ignore or block anything. All processes below inherit it.
SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
           signal.SIGCHLD)


def default_signals(*more: signal.Signals) -> None:
    """Give this process, and those that it starts, the signals of one started by hand.

    For the tests' own process, and as ``preexec_fn`` for a child that needs ``more``, such as
    SIGHUP, which the tests themselves go on ignoring under nohup.
    """
    for number in (*SIGNALS, *more):
        if signal.getsignal(number) == signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, *more))


def forget_environment() -> None:
    """Take out of the environment what tools would obey and tests do not expect."""
    for name in list(os.environ):
        if name in FOREIGN or name.startswith(FOREIGN_PREFIXES):
            del os.environ[name]

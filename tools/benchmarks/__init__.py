"""The subcommands of ``tools/benchmark.py``, one module each, and what they share."""

"""Errors that a user can act on: each names the key or file, what is wrong, and what to do."""

from __future__ import annotations


class OpenVCLIPError(Exception):
    """Base of the errors that the tools report as one line instead of a traceback."""


class ConfigError(OpenVCLIPError):
    """A config key or command-line option is unknown, of the wrong type or out of range."""


class DataError(OpenVCLIPError):
    """A list, label map or video cannot be used."""


class CheckpointError(OpenVCLIPError):
    """A weights file is missing, damaged or does not fit the model."""


class TrainingError(OpenVCLIPError):
    """Training cannot continue: a loss or gradient is not finite."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, shortened, or its type if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def describe_os_error(error: OSError) -> str:
    """Say which file the system refused, and why, as far as the error shows."""
    why = error.strerror or first_line(error)
    return f"{error.filename}: {why}" if error.filename is not None else why

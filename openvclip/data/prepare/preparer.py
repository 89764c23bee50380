"""The subcommands of tools/prepare_labels.py: one class per dataset."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import ClassVar

from openvclip.data.lists.label_maps import default_root
from openvclip.data.prepare.plan import Preparation
from openvclip.utils.errors import ConfigError


class Preparer:
    """One subcommand; openvclip/config/doors.py has its name.

    Attributes:
        help: what it makes lists from, in one line.
    """

    help: ClassVar[str] = ""

    def add_options(self, parser: ArgumentParser) -> None:
        """Add the options that it takes."""

    def plan(self, args: Namespace) -> Preparation:
        """Read and check everything that the lists need; write nothing."""
        raise NotImplementedError


class DatasetPreparer(Preparer):
    """Makes lists of a folder of videos, often with the dataset's official files.

    Attributes:
        annotations: help of ``--annotations``, a folder; "": there is no such option.
    """

    annotations: ClassVar[str] = ""

    def add_options(self, parser: ArgumentParser) -> None:
        """Add ``--videos``, ``--root`` and ``--annotations``."""
        parser.add_argument("--videos", required=True, type=Path, metavar="DIR",
                            help="the dataset's folder; lists name files relative to it")
        parser.add_argument("--root", type=Path, default=default_root(), metavar="DIR",
                            help="folder with label_db and zs_label_db (default: the clone, or the "
                                 "current folder)")
        if self.annotations:
            parser.add_argument("--annotations", type=Path, required=True, metavar="DIR",
                                help=self.annotations)

    def plan(self, args: Namespace) -> Preparation:
        """Check that the folder of videos exists, and plan."""
        if not args.videos.is_dir():
            raise ConfigError(f"--videos {args.videos} is not a folder")
        return self.plan_lists(args)

    def plan_lists(self, args: Namespace) -> Preparation:
        """Read and check everything that the lists need; write nothing."""
        raise NotImplementedError

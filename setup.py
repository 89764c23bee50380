"""Installation of openvclip; ``pip install -c constraints.txt -e .[dev]`` from a clone."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"', (ROOT / "openvclip/__init__.py").read_text("utf-8"), re.M
).group(1)

setup(
    name="openvclip",
    version=VERSION,
    description="CLIP turned into an open-vocabulary video classifier (Open-VCLIP)",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["openvclip", "openvclip.*"]),
    package_data={"openvclip.report.run": ["page_files/*"]},  # what report.html is made of
    install_requires=[
        "torch",
        "torchvision",
        "fvcore",
        "iopath",
        "av",
        "simplejson",
        "psutil",
        "tensorboard",
        "ftfy",
        "regex",
        "open_clip_torch",  # the BPE vocabulary, and the checkpoints that it names
        "matplotlib",
        "pillow",
        "safetensors",
        "tabulate",  # the tables of tools/summarize.py
        "xxhash",  # checksums of checkpoints, ten times as fast as SHA-256
    ],
    extras_require={
        "dev": ["pytest", "ruff", "submitit", "selenium",
                "transformers>=5; python_version >= '3.11'"],
        "slurm": ["submitit"],
        "captions": ["transformers>=5"],  # tools/make_captions.py
    },
)

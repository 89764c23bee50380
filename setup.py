"""For installers that know no pyproject.toml, which says everything."""

from setuptools import setup

setup()

"""The small videos of the data tests serve here, too."""

from tests.data.conftest import videos

__all__ = ["videos"]

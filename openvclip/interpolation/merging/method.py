"""The interface of merge methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from openvclip.interpolation.mixing import StateDict


@dataclass(frozen=True)
class Sources:
    """The weights to merge, each read on request.

    Iterating reads them one after another, as often as wanted. Tensors of a file are memory-mapped:
    a method that goes through ``list(sources)`` by tensor holds one tensor of each in memory.

    Attributes:
        names: what to call each in an error.
        load: reads one, by its index.
        clip: the original CLIP, for methods with ``uses_clip``; else None.
        clip_first: the first of the weights is the original CLIP, which may lack tensors (those of
            a temporal variant).
    """

    names: Sequence[str]
    load: Callable[[int], StateDict]
    clip: StateDict | None = None
    clip_first: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[StateDict]:
        return map(self.load, range(len(self.names)))


class MergeMethod:
    """A way to combine weights.

    Attributes:
        uses_clip: it needs the original CLIP in addition to the weights to merge.
        result: what the log calls the merged weights.
    """

    uses_clip: ClassVar[bool] = False
    result: ClassVar[str] = "merge"

    @classmethod
    def build(cls, cfg: Any) -> MergeMethod:
        """Build it from the config, in which its module has declared its parameters."""
        return cls()

    def merge(self, sources: Sources) -> StateDict:
        """Return the merged weights, floating-point tensors in fp32.

        Raises:
            CheckpointError: the weights do not match one another.
        """
        raise NotImplementedError

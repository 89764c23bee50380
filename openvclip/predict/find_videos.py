"""Finding videos that are in no list, by name. No torch: a wrong name is reported immediately."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

from openvclip.data.prepare.scan import scan_videos
from openvclip.utils.errors import DataError


def find_videos(names: Sequence[str]) -> list[str]:
    """Return the videos that files, folders (at any depth) and glob patterns name, each once.

    A file that is named, or that a pattern matches, is taken whatever its extension.

    Raises:
        DataError: something does not exist, a pattern matches nothing, or a folder has no video.
    """
    videos: dict[str, None] = {}
    for name in names:
        # A file with exactly that name first: names of videos may have brackets.
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not matches:
            what = "matches no file" if glob.has_magic(name) else "does not exist"
            raise DataError(f"--video: {name!r} {what}; check the path")
        for match in matches:
            inside = [match]
            if os.path.isdir(match):
                inside = [os.path.join(match, path) for path in scan_videos(match).paths]
            if not inside and match == name:
                raise DataError(f"--video: the folder {name!r} has no videos in it")
            videos.update(dict.fromkeys(inside))
    if not videos:
        raise DataError(f"--video: no videos in {', '.join(map(repr, names)) or 'an empty list'}")
    return list(videos)

"""Holds a process at a video: whoever comes to the file that HELD_VIDEO names waits there for ever.

A run is then sure to be in the middle of its work when a test ends it, however fast the machine
is. Python imports this file by itself where its folder is in PYTHONPATH.
"""

import os
import time

if "HELD_VIDEO" in os.environ:
    import av

    open_any = av.open

    def open_or_wait(file, *args, **kwargs):
        while str(file).removeprefix("file:") == os.environ["HELD_VIDEO"]:
            time.sleep(1)
        return open_any(file, *args, **kwargs)

    av.open = open_or_wait

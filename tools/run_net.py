#!/usr/bin/env python3
"""The same as ``openvclip run``, see openvclip/commands/run.py."""

import sys

from openvclip.commands.run import main

if __name__ == "__main__":
    sys.exit(main())

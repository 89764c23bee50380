#!/usr/bin/env python3
"""The same as ``openvclip summarize``, see openvclip/commands/summarize.py."""

import sys

from openvclip.commands.summarize import main

if __name__ == "__main__":
    sys.exit(main())

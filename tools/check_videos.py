#!/usr/bin/env python3
"""The same as ``openvclip check``, see openvclip/commands/check.py."""

import sys

from openvclip.commands.check import main

if __name__ == "__main__":
    sys.exit(main())

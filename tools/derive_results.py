#!/usr/bin/env python3
"""The same as ``openvclip derive``, see openvclip/commands/derive.py."""

import sys

from openvclip.commands.derive import main

if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The same as ``openvclip average``, see openvclip/commands/average.py."""

import sys

from openvclip.commands.average import main

if __name__ == "__main__":
    sys.exit(main())

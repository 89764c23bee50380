#!/usr/bin/env python3
"""The same as ``openvclip prepare``, see openvclip/commands/prepare.py."""

import sys

from openvclip.commands.prepare import main

if __name__ == "__main__":
    sys.exit(main())

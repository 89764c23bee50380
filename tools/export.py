#!/usr/bin/env python3
"""The same as ``openvclip export``, see openvclip/commands/export.py."""

import sys

from openvclip.commands.export import main

if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The same as ``openvclip demo``, see openvclip/commands/demo.py."""

import sys

from openvclip.commands.demo import main

if __name__ == "__main__":
    sys.exit(main())

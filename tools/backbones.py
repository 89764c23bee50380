#!/usr/bin/env python3
"""The same as ``openvclip backbones``, see openvclip/commands/backbones.py."""

import sys

from openvclip.commands.backbones import main

if __name__ == "__main__":
    sys.exit(main())

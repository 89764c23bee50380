#!/usr/bin/env python3
"""The same as ``openvclip captions``, see openvclip/commands/captions.py."""

import sys

from openvclip.commands.captions import main

if __name__ == "__main__":
    sys.exit(main())

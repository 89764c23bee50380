#!/usr/bin/env python3
"""The same as ``openvclip submit``, see openvclip/commands/submit.py."""

import sys

from openvclip.commands.submit import main

if __name__ == "__main__":
    sys.exit(main())

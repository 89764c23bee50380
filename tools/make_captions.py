#!/usr/bin/env python3
"""The same as ``openvclip make-captions``, see openvclip/commands/make_captions.py."""

import sys

from openvclip.commands.make_captions import main

if __name__ == "__main__":
    sys.exit(main())

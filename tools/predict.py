#!/usr/bin/env python3
"""The same as ``openvclip predict``, see openvclip/commands/predict.py."""

import sys

from openvclip.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())

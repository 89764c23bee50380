"""``python -m openvclip COMMAND ...``, for where the program ``openvclip`` is not in PATH."""

import sys

from openvclip.commands import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m flashlight`` is ``flashlight``."""

import sys

from flashlight.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())

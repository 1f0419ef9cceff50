"""``python -m robustmarl``: the command line; see :mod:`robustmarl.cli`."""

import sys

from robustmarl.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

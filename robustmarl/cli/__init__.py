"""The command line: ``robustmarl``, or ``python -m robustmarl``.

Thin over the same functions as are called from Python. What commands need is imported when they
run, so that ``--help`` answers at once.
"""

from robustmarl.cli.main import main

__all__ = ["main"]

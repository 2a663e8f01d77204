"""Command-line tools over the program: `python -m scripts.NAME`."""

import sys

from conf.packages import explain_missing
from model.signals import listen

if sys.argv[0] == "-m":  # Python has found this package, and is about to run a module of it
    explain_missing()
    listen()

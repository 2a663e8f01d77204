"""Command-line tools over the program: `python -m scripts.NAME`."""

import sys

from model.signals import listen

if sys.argv[0] == "-m":  # Python has found this package, and is about to run a module of it
    listen()

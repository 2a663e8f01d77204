"""Command-line tools over the program: `python -m scripts.NAME`."""

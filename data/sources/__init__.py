"""Where documents come from: one source a file, each a class named `Source` (see `data/corpus.py`)."""

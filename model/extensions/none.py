"""None: the trained encoding as it is, the row that every other method is compared with."""

from model.extensions import Extension


class NoExtension(Extension):
    """Changes nothing, at any length; fits every encoding."""

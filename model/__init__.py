"""The model: a decoder-only transformer, its attention, and the two slots (position encodings, length extensions)."""

"""Runs side by side: their comparison, the conclusion, the literature, and the report."""

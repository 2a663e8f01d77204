"""Scoring a trained model: protocols, probes, statistics, results and the report."""

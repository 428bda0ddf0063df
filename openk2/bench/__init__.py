"""Measurements: each prints a table and one JSON object, peers in the same run, the limit beside each figure."""

"""Pairs of logical units: their states, their data path, their marks on stable storage."""

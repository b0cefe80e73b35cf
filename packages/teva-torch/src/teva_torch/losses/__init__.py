"""Losses: pure functions of arrays, one a file, each with a numpy oracle in ``tests/reference``."""

"""The parts of bench/check.py, one a file."""

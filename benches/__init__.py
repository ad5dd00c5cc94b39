"""Measurements: each is a ratio against a baseline in the same run. ``python -m benches --help`` says how to run them."""

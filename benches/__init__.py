"""Benchmarks as ratios to a baseline in the same run. ``python -m benches --help`` explains how to run them."""

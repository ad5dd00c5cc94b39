"""Processes, faults and time from one seed: see docs/reliability.md."""

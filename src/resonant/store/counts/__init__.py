"""Counts of accepted events, outcomes and durations, as ledgers and sketches."""

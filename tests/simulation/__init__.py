"""Whole bad nights from one seed: see docs/reliability.md."""

"""Prefect flows: each names its steps, and nothing else."""

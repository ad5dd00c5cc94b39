"""Prefect on this machine: its server and worker, their supervision, and flow runs."""

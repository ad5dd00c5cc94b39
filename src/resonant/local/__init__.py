"""Prefect on this machine: its server and worker, their supervision, and running a flow."""

"""Prefect tasks: each unwraps Prefect's arguments, calls ``resonant``, and logs."""

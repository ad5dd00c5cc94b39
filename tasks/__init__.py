"""Prefect tasks: each unwraps what Prefect brings, calls ``resonant``, and logs."""

"""Prometheus: the rules, their generator, and an example configuration."""

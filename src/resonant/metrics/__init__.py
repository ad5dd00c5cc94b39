"""Metrics: statistics of a window, reports, charts, Prometheus text and alerts."""

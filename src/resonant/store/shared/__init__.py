"""Rows by which processes agree: gates, send slots, drains."""

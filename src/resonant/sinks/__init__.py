"""Sinks: where events go. A sink sends one event once, or raises."""

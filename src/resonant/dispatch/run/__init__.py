"""The tasks of a run: those of its deliveries, and those in the background."""

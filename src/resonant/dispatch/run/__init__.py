"""The tasks of a run, what wakes it, and how it hands over to the next."""

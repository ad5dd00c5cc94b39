"""Actions: each does what a command does, and leaves an audit row with the operator's name."""

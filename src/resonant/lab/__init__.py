"""The laboratory: runs the real gate and retry policy in simulated time against a model of an endpoint."""

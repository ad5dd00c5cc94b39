"""The laboratory: the dispatcher's own gate and retry policy in simulated time, against a model of an endpoint."""

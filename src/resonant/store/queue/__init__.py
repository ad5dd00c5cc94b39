"""The path of a delivery: enqueue, lease, attempt, outcome, rescue."""

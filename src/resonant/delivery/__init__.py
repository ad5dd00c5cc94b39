"""One attempt of a delivery: send, classify the failure, decide on a retry."""

"""The loop that drains the store: claim what is due, attempt it, record the outcome."""

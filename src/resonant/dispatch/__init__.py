"""The loop that drains the store: claim due deliveries, make attempts, record outcomes."""

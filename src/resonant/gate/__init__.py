"""The gate of an endpoint: decides whether and how fast this process may send to it."""

"""The group of commands for subscriptions."""

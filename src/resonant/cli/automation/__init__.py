"""The group of commands for automations."""

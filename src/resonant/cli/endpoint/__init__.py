"""The group of commands for endpoints."""

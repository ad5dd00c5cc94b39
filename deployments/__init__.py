"""Companions of prefect.yaml: setting up a server, its settings, its automations."""

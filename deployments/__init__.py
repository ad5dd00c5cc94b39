"""What surrounds prefect.yaml: making a server ready, its settings, its automations."""

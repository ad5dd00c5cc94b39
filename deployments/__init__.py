"""Sets up and configures the Prefect server for prefect.yaml, and declares its automations."""

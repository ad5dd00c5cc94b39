"""Commands for the sources of webhooks."""

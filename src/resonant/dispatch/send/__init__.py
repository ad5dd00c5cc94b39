"""Makes attempts: permission, send, answer, record."""

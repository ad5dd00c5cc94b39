"""The server process: connections, limits of all requests together, health."""

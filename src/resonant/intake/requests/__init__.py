"""What each request does: store events, look one up, the handshake of webhooks."""

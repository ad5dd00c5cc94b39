"""The handlers of requests: store events, look up an event, and the handshake of webhooks."""

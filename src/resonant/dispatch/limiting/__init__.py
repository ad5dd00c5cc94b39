"""Limits of one endpoint: concurrent sends, sends per second, deliveries claimed and begun ahead of their sends."""

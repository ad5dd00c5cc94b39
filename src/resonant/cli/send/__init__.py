"""Commands that store and send events."""

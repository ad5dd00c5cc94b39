"""``POST /sources/NAME``: webhooks of other services, checked by their signatures and turned into events."""

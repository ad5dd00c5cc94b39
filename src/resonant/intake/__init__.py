"""``POST /events``: events that other programs send over HTTP."""

"""Commands for the dead-letter queue, and for unfinished deliveries that are given up."""

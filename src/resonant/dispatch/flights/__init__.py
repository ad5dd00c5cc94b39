"""The deliveries of a run while it has them: flights, chunks of them, and the endpoints they are for."""

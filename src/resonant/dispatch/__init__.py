"""The loop that drains the store: claim what is due, attempt it, record the outcome."""

# The maximum number of deliveries of a chunk. Twice as many are held in memory with their bodies, and somewhat more if there
# are several endpoints; `fetcher` also limits the size of the bodies.
MAX_CHUNK_SIZE = 5_000

"""The loop that drains the store: claim due deliveries, make attempts, record outcomes."""

# The maximum number of deliveries per chunk. A run keeps about twice as many in memory with their bodies, and somewhat
# more with several endpoints; `fetcher` also limits the total size of the bodies.
MAX_CHUNK_SIZE = 5_000

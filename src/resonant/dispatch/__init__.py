"""The loop that drains the store: claim what is due, attempt it, record the outcome."""

# The deliveries of a chunk. Twice as many are held in memory, each with its body, if there is one endpoint; of several,
# somewhat more (`fetcher`, which also looks at how large the bodies are).
MAX_CHUNK_SIZE = 5_000

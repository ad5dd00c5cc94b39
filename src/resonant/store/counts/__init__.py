"""What is counted: accepted events, outcomes, and latency sketches."""

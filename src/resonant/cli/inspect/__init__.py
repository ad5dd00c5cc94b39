"""Commands that show the store."""

"""The sending processes, configured as their documentation recommends."""

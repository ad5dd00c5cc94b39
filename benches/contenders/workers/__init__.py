"""The sending processes, each as its own documentation recommends."""

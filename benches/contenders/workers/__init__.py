"""The processes that send, each as its own documentation recommends."""

"""The console: every delivery on a page, and the same documents as JSON. See ``app`` for one request, from its check to its answer.

A page reads the store in one snapshot (``pages``). An action is a POST with the words of its command. What cannot be undone needs a
plan, which the operator has seen (``plans``). ``access`` decides who may ask. Nothing here sends an event.
"""

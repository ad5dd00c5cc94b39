"""Dead letters: triage, replay, cancel and purge, with an audit of each."""

"""Commands for the tokens of the HTTP intake."""

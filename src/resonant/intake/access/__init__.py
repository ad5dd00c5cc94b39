"""Access control: tokens, and protection from web pages of other origins."""

"""Builds the documentation site; the pages are Markdown files."""

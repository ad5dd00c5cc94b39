"""What makes the documentation site; the pages are Markdown files."""

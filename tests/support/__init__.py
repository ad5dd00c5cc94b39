"""Shared test code, imported as ``support`` since ``tests`` is not a package."""

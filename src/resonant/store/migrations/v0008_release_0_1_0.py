"""Resonant 0.1.0, the first release: older stores are not upgraded, and new ones are made from ``schema``."""

revision = "0008"
down_revision = None

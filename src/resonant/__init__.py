"""Resonant: reliable event delivery on Prefect. This package is the pure domain; it imports no Prefect."""

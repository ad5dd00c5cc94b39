"""Commands that run Resonant, copy its flows, or simulate an endpoint."""

"""The parts of a connection to an endpoint: permitted addresses, the proxy, the client certificate, and bounds of the answer."""

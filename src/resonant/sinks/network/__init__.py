"""What a connection to an endpoint needs: a permitted address, a proxy, a client certificate, and bounds of the answer."""

"""Claims deliveries, renews their leases, and takes over those of lost workers."""

"""Claims deliveries, keeps their leases, and takes over those of lost workers."""

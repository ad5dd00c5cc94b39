// Refreshes pages while they are looked at.

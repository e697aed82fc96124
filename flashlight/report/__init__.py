"""What users are told: reports, observed runs, notices, progress."""

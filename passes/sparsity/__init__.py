"""Which blocks of a sweep need not be computed."""

"""The command line: inspection, drawing, doctor, cache commands."""

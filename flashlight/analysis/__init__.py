"""What is known of values without running them: ranges, magnitudes, fills, and which blocks tests leave."""

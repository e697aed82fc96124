"""What everything stands on: errors, options, files, the disk cache, versions, budgets."""

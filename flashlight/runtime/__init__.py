"""Running a region: its plan, the targets and the operator in the graph."""

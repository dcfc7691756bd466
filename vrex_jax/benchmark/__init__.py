"""What a decoder step costs: plans, filled caches, races, rows, pictures."""

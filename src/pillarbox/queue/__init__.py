"""Keep mail safe until it is delivered: the store, the schedule, and what becomes of each recipient."""

"""What must be known about a version before and after it answers."""

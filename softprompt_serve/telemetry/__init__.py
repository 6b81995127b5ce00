"""What happened, as plain values, and who listens."""

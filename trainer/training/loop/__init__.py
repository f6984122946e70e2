"""The training loop from the inside: batches, one step, its number format, and the epochs around it."""

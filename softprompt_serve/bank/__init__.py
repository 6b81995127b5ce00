"""Resident tensors on each worker: who has which rows (pure), and the slab itself."""

"""Versions, aliases and their blobs, durable; and the feed that makes snapshots of them."""

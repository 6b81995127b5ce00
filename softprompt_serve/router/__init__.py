"""From a snapshot and a request to the version that answers; pure."""

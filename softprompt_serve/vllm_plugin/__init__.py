"""The only package that imports vLLM: patches, worker methods, routes and start-up checks."""

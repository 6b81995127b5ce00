"""Dashboards as code: each module says one, ``python -m dashboards`` writes their JSON."""

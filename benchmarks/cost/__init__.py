"""What `overlay.py` is made of: sheets of cases, ways to be served, figures, tables and charts."""

"""Who may do what: scopes, tokens, the table of calls, and how often. Pure: no I/O, no web."""

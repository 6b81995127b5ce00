"""The web console at ``/softprompts/``: what is served, read by people, and changed with care."""

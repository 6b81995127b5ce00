"""What all tests share."""

from hypothesis import settings

# The same examples on every run: a change fails for what it changed, not for its luck.
# Machines that run tests are busy; how long an example took says nothing about its correctness.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

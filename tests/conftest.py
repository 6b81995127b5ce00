"""What all tests share."""

from hypothesis import settings

# Machines that run tests are busy; how long an example took says nothing about its correctness.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

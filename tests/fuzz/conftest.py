"""How much is tried: a bounded, repeatable slice in the tests, thousands of cases by `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

CASES = int(os.environ.get("FUZZ_CASES", "0"))

# With a number given, cases follow pytest's --hypothesis-seed; without, they are always the same.
settings.register_profile(
    "fuzz",
    deadline=None,
    derandomize=not CASES,
    database=None,
    # What explains a failure costs many more requests.
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    print_blob=True,
    suppress_health_check=[
        # Whole requests are drawn, and files; that takes longer than a number does.
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.function_scoped_fixture,
        HealthCheck.large_base_example,
    ],
)

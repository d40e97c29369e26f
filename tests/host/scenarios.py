"""The scenarios of the host tests: functions that say how long they may take."""

import os

SCENARIOS = []

# How many times as long as said everything may take, as on a slow or busy machine.
PATIENCE = max(1.0, float(os.environ.get("PATIENCE") or 1))


def scenario(timeout):
    def register(function):
        SCENARIOS.append((function, round(timeout * PATIENCE)))
        return function
    return register

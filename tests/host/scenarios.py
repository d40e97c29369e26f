"""The scenarios of the host tests: functions that say how long they may take."""

SCENARIOS = []


def scenario(timeout):
    def register(function):
        SCENARIOS.append((function, timeout))
        return function
    return register

"""nova-compute with one change: a caller looks for its reply every 5 ms instead of every 0.5 s.

oslo.messaging 17.3.0 (_drivers/amqpdriver.py, ReplyWaiters.get) sleeps 0.5 s between two looks, which a build does some 17
times. What is left when that is gone is nova-compute's own time.
"""
import sys
import time

import nova.cmd.compute
import oslo_messaging._drivers.amqpdriver as driver


class Time:
    """The module `time` with a shorter half second."""

    @staticmethod
    def sleep(seconds):
        time.sleep(0.005 if seconds == 0.5 else seconds)

    def __getattr__(self, name):
        return getattr(time, name)


driver.time = Time()
sys.exit(nova.cmd.compute.main())

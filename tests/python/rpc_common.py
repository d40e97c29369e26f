"""What the oslo.messaging client and server of the tests share.

A module `nova.exception` stands in for nova's: a caller rebuilds an exception from the class name
alone, so the classes need only behave as nova's do.
"""
import json
import logging
import os
import sys
import threading
import types
import warnings

warnings.simplefilter('ignore')

import oslo_messaging  # noqa: E402
from oslo_config import cfg  # noqa: E402


class NovaException(Exception):
    msg_fmt = 'An unknown exception occurred.'
    code = 500

    def __init__(self, message=None, **kwargs):
        self.kwargs = kwargs
        self.kwargs.setdefault('code', self.code)
        if not message:
            message = self.msg_fmt % kwargs
        self.message = message
        super().__init__(message)

    def format_message(self):
        return self.args[0]


class InstanceNotFound(NovaException):
    msg_fmt = 'Instance %(instance_id)s could not be found.'
    code = 404


class InstanceInvalidState(NovaException):
    code = 400


def stand_in_for_nova():
    nova, exception = types.ModuleType('nova'), types.ModuleType('nova.exception')
    for cls in (NovaException, InstanceNotFound, InstanceInvalidState):
        cls.__module__ = 'nova.exception'
        setattr(exception, cls.__name__, cls)
    nova.exception = exception
    sys.modules['nova'], sys.modules['nova.exception'] = nova, exception


def transport(url, exchange, **options):
    stand_in_for_nova()
    # Tracebacks of what the tests raise on purpose are no news.
    debug = os.environ.get('RPC_DEBUG')
    logging.basicConfig(level=logging.DEBUG if debug else logging.CRITICAL)
    # The global one: oslo.messaging registers some options there and nowhere else.
    conf = cfg.CONF
    conf([])
    oslo_messaging.set_transport_defaults(exchange)
    made = oslo_messaging.get_rpc_transport(
        conf, url=url, allowed_remote_exmods=['nova.exception'])
    for name, value in options.items():
        conf.set_override(name, value, group='oslo_messaging_rabbit')
    return conf, made


_lock = threading.Lock()


def say(**fields):
    """One line of JSON for the test."""
    with _lock:
        print(json.dumps(fields), flush=True)

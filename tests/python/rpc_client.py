"""Calls a server as nova-api and nova-conductor do. Usage: rpc_client.py URL EXCHANGE

Each line of standard input is a request; each line of standard output says what came of one. All
requests run at once. The end of the input ends it.
"""
import json
import sys
import threading
import time

import oslo_messaging

from rpc_common import say, transport


def run(made, order):
    target = oslo_messaging.Target(
        topic=order['topic'], server=order.get('server'), fanout=order.get('fanout', False),
        namespace=order.get('namespace'), version=order.get('version', '6.0'))
    client = oslo_messaging.get_rpc_client(
        made, target, timeout=order.get('timeout', 30),
        call_monitor_timeout=order.get('monitor'))
    context, method, args = order.get('context', {}), order['method'], order.get('args', {})
    started = time.monotonic()
    try:
        if order['op'] == 'call':
            result = client.call(context, method, **args)
        else:
            result = client.cast(context, method, **args)
    except Exception as error:
        import nova.exception as nova
        say(id=order['id'], raised=type(error).__name__, module=type(error).__module__,
            is_nova=isinstance(error, nova.NovaException), text=str(error),
            kwargs=getattr(error, 'kwargs', None), exc_type=getattr(error, 'exc_type', None),
            message=error.format_message() if isinstance(error, nova.NovaException) else None,
            seconds=time.monotonic() - started)
    else:
        say(id=order['id'], result=result, seconds=time.monotonic() - started)


def main():
    conf, made = transport(sys.argv[1], sys.argv[2])
    say(ready=True)
    threads = []
    for line in sys.stdin:
        thread = threading.Thread(target=run, args=(made, json.loads(line)), daemon=True)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()


main()

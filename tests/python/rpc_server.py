"""Serves methods as nova-conductor does. Usage: rpc_server.py URL EXCHANGE TOPIC SERVER

Says each request it ran on standard output. The end of the input ends it.
"""
import sys
import threading
import time

import oslo_messaging

from rpc_common import say, transport


class Endpoint:
    target = oslo_messaging.Target(version='3.1')

    def echo(self, context, **args):
        say(ran='echo', args=args, context=context)
        return args

    def not_found(self, context, instance_id):
        import nova.exception
        raise nova.exception.InstanceNotFound(instance_id=instance_id)

    def broken(self, context):
        raise KeyError('broken')

    def slow(self, context, seconds):
        say(ran='slow')
        time.sleep(seconds)
        return 'slept'


class Tasks:
    target = oslo_messaging.Target(namespace='compute_task', version='1.25')

    def echo(self, context, **args):
        say(ran='compute_task.echo', args=args)
        return ['task', args]


def main():
    url, exchange, topic, server = sys.argv[1:5]
    conf, made = transport(url, exchange)
    target = oslo_messaging.Target(topic=topic, server=server)
    served = oslo_messaging.get_rpc_server(made, target, [Endpoint(), Tasks()], executor='threading')
    served.start()
    say(ready=True)
    sys.stdin.read()
    served.stop()


main()

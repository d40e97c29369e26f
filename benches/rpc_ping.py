"""Answers pings with oslo.messaging, as a nova service is set up: threads, 64 of them.
Usage: rpc_ping.py URL. The end of the input ends it."""
import sys

import oslo_messaging
from oslo_config import cfg


class Endpoint:
    target = oslo_messaging.Target(namespace='baseapi', version='1.1')

    def ping(self, context, arg):
        return {'service': 'compute', 'arg': arg}


conf = cfg.CONF
conf([])
oslo_messaging.set_transport_defaults('nova')
transport = oslo_messaging.get_rpc_transport(conf, url=sys.argv[1])
target = oslo_messaging.Target(topic='python', server='bench')
server = oslo_messaging.get_rpc_server(transport, target, [Endpoint()], executor='threading')
server.start()
print('{"ready": true}', flush=True)
sys.stdin.read()
server.stop()

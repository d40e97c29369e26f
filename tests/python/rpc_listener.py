"""Reads notifications as telemetry services do. Usage: rpc_listener.py URL EXCHANGE TOPIC

Says each one on standard output. The end of the input ends it.
"""
import sys

import oslo_messaging

from rpc_common import say, transport


class Endpoint:
    def info(self, context, publisher_id, event_type, payload, metadata):
        say(priority='info', context=context, publisher_id=publisher_id, event_type=event_type,
            payload=payload, metadata=metadata)

    def error(self, context, publisher_id, event_type, payload, metadata):
        say(priority='error', context=context, publisher_id=publisher_id, event_type=event_type,
            payload=payload, metadata=metadata)


def main():
    url, exchange, topic = sys.argv[1:4]
    conf, _ = transport(url, exchange)
    made = oslo_messaging.get_notification_transport(conf, url=url)
    target = oslo_messaging.Target(topic=topic, exchange=exchange)
    listener = oslo_messaging.get_notification_listener(
        made, [target], [Endpoint()], executor='threading')
    listener.start()
    say(ready=True)
    sys.stdin.read()
    listener.stop()


main()

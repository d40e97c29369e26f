"""Listens to nova's notifications, of both formats, in the order in which the broker has them."""
import json
import threading
import time

import kombu
from amqp.exceptions import AMQPError
from kombu.exceptions import KombuError

from plane import CONTROLLER

URL = f"amqp://openstack:secret@{CONTROLLER}:5672//"


class Notifications:
    def __init__(self):
        self.heard = []
        self.last = 0.0
        self.lock = threading.Lock()
        self.ends = False
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while not self.ends:
            try:
                with kombu.Connection(URL) as connection:
                    channel = connection.default_channel
                    exchange = kombu.Exchange("nova", type="topic", durable=False, channel=channel)
                    exchange.declare()
                    queue = kombu.Queue("suite", exclusive=True, durable=False, auto_delete=True, channel=channel)
                    queue.declare()
                    for topic in ("notifications.#", "versioned_notifications.#"):
                        queue.bind_to(exchange, topic)
                    with kombu.Consumer(channel, [queue], on_message=self.take, accept=None, no_ack=True):
                        while not self.ends:
                            try:
                                connection.drain_events(timeout=1)
                            except TimeoutError:
                                pass
            except (OSError, AMQPError, KombuError):
                time.sleep(0.5)  # the broker is being restarted

    def take(self, message):
        body = json.loads(message.body)
        body = json.loads(body["oslo.message"]) if "oslo.message" in body else body
        with self.lock:
            self.last = time.monotonic()
            self.heard.append({
                "format": message.delivery_info["routing_key"].split(".")[0],
                "event": body["event_type"], "publisher": body["publisher_id"], "priority": body["priority"],
                "payload": ordered(unwrap(body["payload"])),
            })

    def quiet(self, seconds=1.0, at_most=15.0):
        """Waits until nothing has been heard for so long."""
        end = time.monotonic() + at_most
        while time.monotonic() < min(end, self.last + seconds):
            time.sleep(0.1)

    def clear(self):
        with self.lock:
            self.heard.clear()

    def about(self, servers):
        """What was heard about these servers, in order."""
        with self.lock:
            return [one for one in self.heard if subject(one["payload"]) in servers]


def ordered(payload):
    """Roles are a set, in the order in which keystone happened to name them."""
    image = payload.get("image_meta")
    if isinstance(image, dict) and image.get("boot_roles"):
        image["boot_roles"] = ",".join(sorted(image["boot_roles"].split(",")))
    return payload


def subject(payload):
    return payload.get("instance_id") or payload.get("uuid") or payload.get("instance_uuid")


def unwrap(value):
    """A versioned payload without its envelopes: the object's name and version, and its fields beside them."""
    if isinstance(value, dict) and "nova_object.data" in value:
        data = {"object": f"{value['nova_object.name']} {value['nova_object.version']}"}
        data.update((key, unwrap(one)) for key, one in value["nova_object.data"].items())
        return data
    if isinstance(value, dict):
        return {key: unwrap(one) for key, one in value.items()}
    if isinstance(value, list):
        return [unwrap(one) for one in value]
    return value

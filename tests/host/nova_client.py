"""A control plane in miniature: sends what nova-api and nova-conductor send, with the real oslo.messaging.

The shapes of the messages are recorded ones (messages.json): objects as nova serialises them, arguments as
nova/compute/rpcapi.py names them. Only values that a test chooses are put in.
"""
import base64
import copy
import json
import logging
import os
import re
import subprocess
import sys
import time
import types
import uuid
import warnings

warnings.filterwarnings("ignore")

import kombu  # noqa: E402
import oslo_messaging  # noqa: E402
from oslo_config import cfg  # noqa: E402

from scenarios import PATIENCE  # noqa: E402

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "messages.json")) as _file:
    MESSAGES = json.load(_file)

# A broker that a scenario takes away is no news.
for _name in ("oslo.messaging", "oslo_messaging", "oslo", "amqp", "kombu"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

COMPUTE_VERSION = "6.0"


class NovaException(Exception):
    """What nova.exception.NovaException is to oslo.messaging: takes a message and keyword arguments."""

    def __init__(self, message=None, **kwargs):
        super().__init__(message)
        self.kwargs = kwargs


class _NovaExceptions(types.ModuleType):
    """Stands for the module nova.exception, so that a failure arrives as the class that a nova client would see."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (NovaException,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


sys.modules.setdefault("nova", types.ModuleType("nova"))
sys.modules["nova.exception"] = _NovaExceptions("nova.exception")


def error_name(error):
    """The class of a failure as the agent named it."""
    if isinstance(error, oslo_messaging.RemoteError):
        return error.exc_type
    return type(error).__name__.removesuffix("_Remote")


class Nova:
    """Calls and casts to one compute host."""

    def __init__(self, transport_url, host):
        self.host = host
        self.url = transport_url
        cfg.CONF([], project="nova-test", default_config_files=[], default_config_dirs=[])
        oslo_messaging.set_transport_defaults("nova")
        self.transport = oslo_messaging.get_rpc_transport(
            cfg.CONF, url=transport_url, allowed_remote_exmods=["nova.exception"])

    def context(self):
        """A fresh request's context."""
        return {**MESSAGES["context"], "request_id": f"req-{uuid.uuid4()}"}

    def client(self, topic="compute", version=COMPUTE_VERSION, namespace=None, timeout=60):
        target = oslo_messaging.Target(topic=topic, server=self.host, version=version, namespace=namespace)
        return oslo_messaging.get_rpc_client(self.transport, target, timeout=timeout * PATIENCE)

    def call(self, method, timeout=60, topic="compute", version=COMPUTE_VERSION, namespace=None, **args):
        return self.client(topic, version, namespace, timeout).call(self.context(), method, **args)

    def cast(self, method, topic="compute", version=COMPUTE_VERSION, **args):
        self.client(topic, version).cast(self.context(), method, **args)

    def ping(self, timeout=5, topic="compute"):
        """Whether the agent consumes from the broker."""
        try:
            answer = self.call("ping", timeout=timeout, topic=topic, version="1.1", namespace="baseapi", arg="x")
        except (oslo_messaging.MessagingTimeout, oslo_messaging.MessageDeliveryFailure):
            return False
        assert answer == {"service": "compute", "arg": "x"}, answer
        return True

    def publish_raw(self, body, topic="compute", content_type="application/json"):
        """Publishes bytes that no oslo.messaging would send."""
        with kombu.Connection(self.url.replace("rabbit://", "amqp://", 1)) as connection:
            connection.Producer().publish(body, exchange="nova", routing_key=f"{topic}.{self.host}",
                                          content_type=content_type, content_encoding="utf-8", serializer=None)

    def envelope(self, message, version="2.0"):
        return json.dumps({"oslo.version": version, "oslo.message": json.dumps(message)})


def image(url, disk_format="qcow2", container_format="bare", size=None, sha256=None, name="guest", identifier=None, **properties):
    """A Glance image in nova's dict shape. The agent in standalone mode reads its bytes from `url`."""
    made = copy.deepcopy(MESSAGES["build_and_run_instance"]["image"])
    for key in ("checksum", "os_hash_algo", "os_hash_value", "size"):
        del made[key]
    made.update(id=identifier or str(uuid.uuid4()), name=name, disk_format=disk_format, container_format=container_format,
                direct_url=url, properties=properties)
    if size is not None:
        made["size"] = size
    if sha256:
        made.update(os_hash_algo="sha256", os_hash_value=sha256)
    return made


class Guest:
    """One instance: the record that nova would have in its database, and the requests about it."""

    _ids = iter(range(int(time.time()) % 1_000_000 * 100, 1 << 31))

    def __init__(self, world, name="guest", memory_mb=128, vcpus=1, root_gb=1, ephemeral_gb=0, swap=0):
        self.world, self.nova, self.name = world, world.nova, name
        self.uuid = str(uuid.uuid4())
        self.id = next(Guest._ids)
        self.size = {"memory_mb": memory_mb, "vcpus": vcpus, "root_gb": root_gb, "ephemeral_gb": ephemeral_gb}
        self.swap = swap
        self.seen = 0
        world.guests.append(self)

    # --- messages

    def build_arguments(self, image, network="none", config_drive=False, user_data=None, kernel=None, ramdisk=None,
                        disks=(), files=(), admin_password=""):
        """The arguments of build_and_run_instance. `network`: user, none, bridge:NAME, network:NAME. `disks`: what the blank
        block device mappings say beside the root's; `files`: (path, bytes) for the config drive."""
        args = copy.deepcopy(MESSAGES["build_and_run_instance"])
        instance = args["instance"]["nova_object.data"]
        flavor = {**self.size, "swap": self.swap, "name": f"test.{self.size['memory_mb']}", "flavorid": f"test.{self.size['memory_mb']}"}
        instance.update(id=self.id, uuid=self.uuid, hostname=self.name, display_name=self.name, image_ref=image["id"],
                        kernel_id=kernel or "", ramdisk_id=ramdisk or "", config_drive="True" if config_drive else "",
                        user_data=base64.b64encode(user_data).decode() if user_data is not None else None, **self.size)
        instance["flavor"]["nova_object.data"].update(flavor)
        for part in ("info_cache", "pci_requests"):
            instance[part]["nova_object.data"]["instance_uuid"] = self.uuid
        system = instance["system_metadata"]
        system.update(image_base_image_ref=image["id"], image_disk_format=image["disk_format"],
                      image_container_format=image["container_format"])
        system.update({f"image_{key}": value for key, value in image["properties"].items()})
        instance["os_type"] = image["properties"].get("os_type")
        system.update({f"image_{name}": value for name, value in image["properties"].items()})
        if kernel:
            image["properties"].update(kernel_id=kernel, ramdisk_id=ramdisk)
        args["image"] = image
        spec = args["request_spec"]["nova_object.data"]
        spec["instance_uuid"] = self.uuid
        spec["flavor"]["nova_object.data"].update(flavor)
        spec["image"]["nova_object.data"].update(id=image["id"], name=image["name"], disk_format=image["disk_format"],
                                                 container_format=image["container_format"])
        spec["requested_destination"]["nova_object.data"]["host"] = self.nova.host
        for networks in (args["requested_networks"], spec["requested_networks"]):
            networks["nova_object.data"]["objects"][0]["nova_object.data"]["network_id"] = network
        # One attempt, no alternates: a failed build ends here.
        args["filter_properties"] = {"limits": {}}
        for mapping in args["block_device_mapping"]["nova_object.data"]["objects"]:
            mapping["nova_object.data"].update(uuid=str(uuid.uuid4()), instance_uuid=self.uuid, image_id=image["id"])
        mappings = args["block_device_mapping"]["nova_object.data"]["objects"]
        for disk in disks:
            blank = copy.deepcopy(mappings[0])
            blank["nova_object.data"].update(uuid=str(uuid.uuid4()), source_type="blank", boot_index=-1, image_id=None)
            blank["nova_object.data"].update(disk)
            mappings.append(blank)
        args["injected_files"] = [[path, base64.b64encode(content).decode()] for path, content in files]
        args["admin_password"] = admin_password
        args["node"] = self.nova.host
        return args

    def instance(self, task_state=None, **values):
        """The Instance as nova-api sends it with a request: what it read from its database, and the task state that it set."""
        made = copy.deepcopy(MESSAGES["instance"])
        record = self.world.show(self) or {}
        made["nova_object.data"].update(
            id=self.id, uuid=self.uuid, hostname=self.name, display_name=self.name, host=self.nova.host, node=self.nova.host,
            launched_on=self.nova.host, task_state=task_state, **self.size)
        for key in ("vm_state", "power_state"):
            if record.get(key) is not None:
                made["nova_object.data"][key] = record[key]
        made["nova_object.data"]["info_cache"]["nova_object.data"]["instance_uuid"] = self.uuid
        made["nova_object.data"].update(values)
        return made

    # --- requests

    def build(self, image, **options):
        self.nova.cast("build_and_run_instance", **self.build_arguments(image, **options))
        return self

    def request(self, method, task_state, vm_state, **args):
        """A life-cycle cast, until the instance is in `vm_state` with no task."""
        self.nova.cast(method, instance=self.instance(task_state), **args)
        return self.wait_state(vm_state)

    def pause(self):
        return self.request("pause_instance", "pausing", "paused")

    def unpause(self):
        return self.request("unpause_instance", "unpausing", "active")

    def suspend(self):
        return self.request("suspend_instance", "suspending", "suspended")

    def resume(self):
        return self.request("resume_instance", "resuming", "active")

    def stop(self):
        return self.request("stop_instance", "powering-off", "stopped", clean_shutdown=True)

    def start(self):
        return self.request("start_instance", "powering-on", "active")

    def reboot(self, kind):
        task = {"SOFT": "rebooting", "HARD": "rebooting_hard"}[kind]
        self.nova.cast("reboot_instance", instance=self.instance(task), block_device_info=None, reboot_type=kind)

    def terminate(self):
        bdms = copy.deepcopy(MESSAGES["bdms"])
        for mapping in bdms["nova_object.data"]["objects"]:
            mapping["nova_object.data"]["instance_uuid"] = self.uuid
        self.nova.cast("terminate_instance", instance=self.instance("deleting"), bdms=bdms)

    def delete(self, timeout=60):
        """terminate_instance, until nothing of the guest is left."""
        self.terminate()
        self.world.wait(lambda: not self.world.remains(self), timeout, lambda: f"left of it: {self.world.remains(self)}")

    # --- looking

    def console(self, tail_length=None, timeout=30):
        return self.nova.call("get_console_output", timeout=timeout, instance=self.instance(), tail_length=tail_length)

    def console_or_nothing(self):
        """The console, or '' while there is none."""
        try:
            return self.console()
        except Exception as error:
            if error_name(error) in ("InstanceNotReady", "InstanceNotFound", "ConsoleNotAvailable"):
                return ""
            raise

    def wait_console(self, pattern, timeout=90):
        """The last match of `pattern` on the console, as soon as there is one."""
        found = []

        def look():
            text = self.console_or_nothing()
            found[:] = [*re.finditer(pattern, text)]
            state = self.world.show(self) or {}
            if not found and state.get("vm_state") == "error":
                raise AssertionError(f"the guest is in error while waiting for {pattern!r}: {state}")
            return found

        self.world.wait(look, timeout, lambda: f"{pattern!r} isn't on the console: {self.console_or_nothing()[-1500:]!r}")
        return found[-1]

    def wait_boot(self, number, timeout=90):
        """The guest's marker of its boot `number`. Its disk counts them, so it also says whose disk it is."""
        return self.wait_console(rf"HYPERNOVA-GUEST booted boot={number} uptime=(?P<uptime>\S+) root=(?P<root>\S+) "
                                 rf"own=(?P<own>\S+) kernel=\S+ uuid={self.uuid}", timeout)

    def heartbeat(self):
        """(boot, count) of the newest heartbeat on the console, or None."""
        beats = re.findall(r"HYPERNOVA-GUEST heartbeat boot=(\d+) count=(\d+)", self.console_or_nothing())
        return (int(beats[-1][0]), int(beats[-1][1])) if beats else None

    def wait_heartbeat_after(self, count, timeout=60):
        self.world.wait(lambda: (self.heartbeat() or (0, 0))[1] > count, timeout, lambda: f"no heartbeat after {count}: {self.heartbeat()}")
        return self.heartbeat()

    def wait_state(self, vm_state, timeout=90):
        """The record, as soon as it says `vm_state` and no task runs."""
        def look():
            record = self.world.show(self) or {}
            return record.get("vm_state") == vm_state and record.get("task_state") is None

        self.world.wait(look, timeout, lambda: f"{self.name} isn't {vm_state}: {self.world.show(self)}")
        return self.world.show(self)


def run(*command, check=True, timeout=60):
    """Standard output of a command; its standard error is in the exception when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout * PATIENCE)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout

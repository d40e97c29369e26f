"""Looks at one server from every side: nova's API and records, neutron, placement, cinder, libvirt, the host's disk."""
import json
import os
import re

import pymysql
import pymysql.cursors

from cloud import Answered
from facts import flatten, flatten_xml
from plane import CONTROLLER, Failed, until

# What the records have that neither the API nor the domain shows.
INSTANCE = """hostname, node, host, launched_on, vm_state, task_state, power_state, memory_mb, vcpus, root_gb, ephemeral_gb,
  root_device_name, default_ephemeral_device, default_swap_device, vm_mode, os_type, architecture, progress, auto_disk_config,
  shutdown_terminate, disable_terminate, cell_name, cleaned, config_drive, locked, locked_by, deleted != 0 as deleted, user_data,
  launched_at is not null as was_launched, terminated_at is not null as was_terminated"""
DISK = """source_type, destination_type, guest_format, device_type, disk_bus, boot_index, device_name, delete_on_termination,
  volume_size, no_device, connection_info, attachment_id, deleted != 0 as deleted"""


class Records:
    """nova's databases, read."""

    def __init__(self):
        self.connection = None

    def rows(self, query, *values, database="nova"):
        if self.connection is None:
            self.connection = pymysql.connect(host=CONTROLLER, user="root", autocommit=True,
                                              cursorclass=pymysql.cursors.DictCursor)
        with self.connection.cursor() as cursor:
            cursor.execute(f"use {database}")
            cursor.execute(query, values)
            return [{key: plain(value) for key, value in row.items()} for row in cursor.fetchall()]


def plain(value):
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def records(world, server):
    found = world.records.rows(f"select {INSTANCE} from instances where uuid = %s", server)
    if not found:
        return None
    metadata = world.records.rows("select `key`, value from instance_system_metadata where instance_uuid = %s and deleted = 0",
                                  server)
    cache = world.records.rows("select network_info from instance_info_caches where instance_uuid = %s", server)
    system = {row["key"]: row["value"] for row in metadata}
    for key in {"boot_roles", "image_boot_roles"} & set(system):  # a set, in the order in which keystone happened to name them
        system[key] = ",".join(sorted(system[key].split(",")))
    return {
        "instance": found[0],
        "system_metadata": system,
        "disks": world.records.rows(f"select {DISK} from block_device_mapping where instance_uuid = %s order by id", server),
        "interfaces": world.records.rows("select tag, deleted != 0 as deleted from virtual_interfaces where instance_uuid = %s "
                                         "order by id", server),
        "network_info": json.loads(cache[0]["network_info"]) if cache else None,
    }


def server_facts(world, server):
    try:
        found = world.cloud.server(server)
    except Answered as answer:
        if answer.status != 404:
            raise
        return {"server": "gone"}
    found.pop("links")
    if isinstance(found["image"], dict):
        found["image"].pop("links")
    return {"server": found}


def actions(world, server):
    """The action list, each action and each of its events in a line; waits for those under way to be finished."""
    base = f"/servers/{server}/os-instance-actions"

    def listed():
        return [world.cloud.compute.get(f"{base}/{one['request_id']}")["instanceAction"]
                for one in reversed(world.cloud.compute.get(base)["instanceActions"])]

    def finished():
        found = listed()
        return found if all(event["finish_time"] for one in found for event in one["events"]) else None
    try:
        found = until(8, "actions to be finished", finished, 0.3)
    except Failed:
        found = listed()  # the conductor never finishes the first of two events of one name, as after a reschedule
    told = []
    for one in found:
        told.append({"is": one["action"], "message": one["message"], "events": [
            # The stack is Python's, as nova-compute has it: that there is one is the fact.
            {"is": f"{event['event']} on {event['host']}: {event['result']}", "details": event["details"],
             "traceback": bool(event["traceback"])}
            for event in sorted(one["events"], key=begun)]})
    return told


def begun(event):
    """Orders the events of an action: times are whole seconds, and the conductor's begin before what it asks a host for."""
    return event["host"] != "controller", event["start_time"], event["event"]


def ports(world, server):
    found = world.cloud.network.get("/v2.0/ports", params={"device_id": server})["ports"]
    found.sort(key=lambda port: port["created_at"])
    for number, port in enumerate(found):
        world.names.learn(port["id"], f"port {number + 1}")
        port.pop("revision_number")  # how often it was written
    return found


def allocations(world, server):
    found = world.cloud.placement.get(f"/allocations/{server}")
    for one in found["allocations"].values():
        one.pop("generation")
    return found


def files(host, server):
    """What the host has on its disk for a server, and what its disk is."""
    directory = f"{host.instances}/{server}"
    if not os.path.isdir(directory):
        return None
    found = {name: "file" for name in sorted(os.listdir(directory))}
    if "disk" in found:
        disk = json.loads(host.run("qemu-img", "info", "--force-share", "--output=json", f"/var/lib/nova/instances/{server}/disk"))
        found["disk"] = {"format": disk["format"], "size": disk["virtual-size"], "backing": disk.get("full-backing-filename"),
                         "backing format": disk.get("backing-filename-format")}
    if "disk.info" in found:
        with open(f"{directory}/disk.info") as file:
            found["disk.info"] = json.load(file)
    return found


def look(world, server):
    """Everything about a server, as facts."""
    names = world.names
    record = records(world, server)
    seen = {
        **server_facts(world, server), "actions": actions(world, server), "ports": ports(world, server),
        "allocations": allocations(world, server), "record": record,
    }
    seen["volumes"] = [] if seen["server"] == "gone" else world.cloud.compute.get(
        f"/servers/{server}/os-volume_attachments")["volumeAttachments"]
    facts = flatten(seen, names)
    for host in world.hosts.values():
        domain = domain_of(host, server)
        if domain:
            facts.update(flatten_xml(host.virsh("dumpxml", "--inactive", domain), names))
            facts["domain on"] = host.name
            facts["domain state"] = host.virsh("domstate", domain).strip()
            facts["domain saved"] = "yes" in re.search("Managed save: +(.*)", host.virsh("dominfo", domain))[1]
        on_disk = files(host, server)
        if on_disk:
            facts.update(flatten({"files": {host.name: on_disk}}, names))
    return facts


def domain_of(host, server):
    """The name of a server's domain on a host."""
    try:
        return host.virsh("domname", server).strip()
    except Failed:
        return None


def left_behind(world):
    """What there should be nothing of when no server is left."""
    left = {}
    for name, host in world.hosts.items():
        left[f"domains on {name}"] = host.domains()
        left[f"taps on {name}"] = host.ports()
        left[f"files on {name}"] = [one for one in os.listdir(host.instances) if re.match("[0-9a-f]{8}-", one)]
    left["servers"] = [one["id"] for one in world.cloud.compute.get("/servers", params={"all_tenants": 1})["servers"]]
    left["ports"] = [one["id"] for one in world.cloud.network.get("/v2.0/ports")["ports"]
                     if one["device_owner"].startswith("compute:")]
    for provider in world.cloud.placement.get("/resource_providers")["resource_providers"]:
        found = world.cloud.placement.get(f"/resource_providers/{provider['uuid']}/allocations")["allocations"]
        left[f"allocations of {provider['name']}"] = list(found)
    return {what: found for what, found in left.items() if found}

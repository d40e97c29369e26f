"""Servers are made and go."""
import base64
import json

from plane import Failed, until
from world import scenario

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPfJq6tkpmBsHVjDbjNtKQzRwmV8XkNzJMkpVqgnWY6m someone@somewhere"
USER_DATA = "#!/bin/sh\necho hello\n"


@scenario
def create(world):
    """An image-backed server with a port on a network; it boots, and nothing of it is left when it is deleted."""
    server = world.create(booted=True)
    server.wait_console("HYPERNOVA-GUEST dhcp dev=")
    world.note("created")
    server.delete()
    world.deleted(server)
    world.note("deleted")


@scenario
def create_several(world):
    """Three with one request; each has its own name, port and disk."""
    first = world.cloud.create("several", host="compute1", min_count=3, max_count=3)
    listed = world.cloud.compute.get("/servers/detail", params={"name": "several"})["servers"]
    world.check([] if first in {one["id"] for one in listed} else ["the first isn't listed"])
    for one in sorted(listed, key=lambda one: one["name"]):
        world.adopt(one["id"])
    for server in world.servers:
        server.wait()
    world.note("created")
    # Their notifications come in any order.
    world.begin_here()


@scenario
def create_on_a_named_host(world):
    """The host is given in the older way, with the availability zone."""
    world.create(host=None, availability_zone="nova:compute1")
    world.note("created")


@scenario
def create_with_everything(world):
    """Key pair, user data, metadata, config drive, files to inject: all of it is on the config drive the guest finds."""
    compute = world.cloud.compute
    try:
        compute.post("/os-keypairs", {"keypair": {"name": "key", "public_key": KEY}}, microversion="2.56")
    except Failed:
        pass  # from an earlier run of the scenario
    contents = base64.b64encode(b"injected\n").decode()
    server = world.create(
        host=None, availability_zone="nova:compute1", microversion="2.56", key_name="key", config_drive=True,
        user_data=base64.b64encode(USER_DATA.encode()).decode(), metadata={"role": "test", "colour": "green"},
        description="a server with everything", tags=["one", "two"],
        personality=[{"path": "/etc/injected", "contents": contents}])
    server.wait_boot()
    server.wait_console(rf"HYPERNOVA-GUEST config-drive .*uuid={server.id} hostname=server\S* user_data=[0-9a-f]{{64}} keys=[1-9]")
    world.note("created")
    world.note_value("config drive", config_drive(world, server))


def config_drive(world, server):
    """The drive's files by name; those of the newest version, and what is injected, with what is in them."""
    host = server.host()
    path = f"/var/lib/nova/instances/{server.id}/disk.config"
    names = host.run("isoinfo", "-R", "-f", "-i", path).split()
    found = {}
    for name in names:
        if any(other.startswith(f"{name}/") for other in names):
            continue
        if "/latest/" not in name and "/content/" not in name:
            found[name] = "file"
            continue
        text = host.run("isoinfo", "-R", "-i", path, "-x", name)
        found[name] = json.loads(text) if name.endswith(".json") else text
        if name == "/openstack/latest/meta_data.json":
            # Random by intent: how long they are is the fact.
            for field in ("random_seed", "admin_pass"):
                found[name][field] = len(found[name][field])
    return found


@scenario
def create_without_network(world):
    """A server that asks for no network gets none."""
    world.create(networks="none", booted=True)
    world.note("created")


@scenario
def create_with_a_port(world):
    """A port that was there before is bound, and is there, unbound, after the server has gone."""
    network = world.cloud.network
    port = network.post("/v2.0/ports", {"port": {"network_id": world.cloud.network_id(), "name": "mine"}})["port"]["id"]
    world.names.learn(port, "my port")
    try:
        server = world.create(networks=[{"port": port}], booted=True)
        server.wait_console("HYPERNOVA-GUEST dhcp dev=")
        world.note("created")
        server.delete()
        world.deleted(server)

        def unbound():
            found = network.get(f"/v2.0/ports/{port}")["port"]
            return found if not found["device_id"] and found["status"] == "DOWN" else None
        found = until(15, "the port to be unbound", unbound)
        found.pop("revision_number")
        world.note_value("port afterwards", found)
    finally:
        network.delete(f"/v2.0/ports/{port}")

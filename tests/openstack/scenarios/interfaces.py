"""Interfaces that come to servers, and go: by network, by port, by address; and addresses of ports."""
from plane import until
from world import scenario


def attach(world, server, name, **wanted):
    """Attaches an interface, learns its port's name, and waits until nova shows it."""
    answer = world.cloud.compute.post(f"/servers/{server.id}/os-interface", {"interfaceAttachment": wanted})
    port = answer["interfaceAttachment"]["port_id"]
    world.names.learn(port, name)
    return port


def detach(world, server, port):
    world.cloud.compute.delete(f"/servers/{server.id}/os-interface/{port}")

    def gone():
        shown = world.cloud.compute.get(f"/servers/{server.id}/os-interface")["interfaceAttachments"]
        return port not in {one["port_id"] for one in shown}
    until(60, "the interface to go", gone)


def recorded(world, server, count):
    """Waits until nova's own record shows so many addresses."""
    def shown():
        return sum(map(len, world.cloud.server(server.id)["addresses"].values())) == count
    until(30, f"{count} addresses on record", shown)


@scenario
def interface_by_network(world):
    """An interface on a network comes to a running server, which sees it and gets its address; and goes again."""
    server = world.running()
    port = attach(world, server, "second port", net_id=world.cloud.network_id())
    server.wait_console("HYPERNOVA-GUEST nic dev=eth1")
    recorded(world, server, 2)
    world.note("attached")
    detach(world, server, port)
    server.wait_console("HYPERNOVA-GUEST nic-gone dev=eth1")
    recorded(world, server, 1)
    world.note("detached")


@scenario
def interface_by_port(world):
    """The user's port comes to a running server, and is there, unbound, when it has gone."""
    network = world.cloud.network
    mine = network.post("/v2.0/ports", {"port": {"network_id": world.cloud.network_id(), "name": "mine"}})["port"]["id"]
    world.names.learn(mine, "my port")
    try:
        server = world.running()
        attach(world, server, "my port", port_id=mine)
        server.wait_console("HYPERNOVA-GUEST nic dev=eth1")
        recorded(world, server, 2)
        world.note("attached")
        detach(world, server, mine)
        server.wait_console("HYPERNOVA-GUEST nic-gone dev=eth1")

        def unbound():
            found = network.get(f"/v2.0/ports/{mine}")["port"]
            return found if not found["device_id"] and found["status"] == "DOWN" else None
        until(15, "the port to be unbound", unbound)
        recorded(world, server, 1)
        world.note("detached")
    finally:
        network.delete(f"/v2.0/ports/{mine}")


@scenario
def interface_of_a_stopped_server(world):
    """It comes while the server is off, is there at its start, and goes while it is off again."""
    server = world.running()
    server.act("os-stop")
    server.wait("SHUTOFF")
    world.begin_here()
    port = attach(world, server, "second port", net_id=world.cloud.network_id(), tag="data")
    recorded(world, server, 2)
    world.note("attached")
    server.act("os-start")
    server.wait()
    server.wait_console("HYPERNOVA-GUEST nic dev=eth1")
    server.act("os-stop")
    server.wait("SHUTOFF")
    world.begin_here()
    detach(world, server, port)
    recorded(world, server, 1)
    world.note("detached")


@scenario
def more_addresses(world):
    """An address more on the port that the server has, and one less."""
    server = world.running()
    before = {one["addr"] for all_ in world.cloud.server(server.id)["addresses"].values() for one in all_}
    old = {"microversion": "2.43"}
    server.act("addFixedIp", {"networkId": world.cloud.network_id()}, **old)
    recorded(world, server, 2)
    world.note("added")
    now = {one["addr"] for all_ in world.cloud.server(server.id)["addresses"].values() for one in all_}
    [new] = now - before
    server.act("removeFixedIp", {"address": new}, **old)
    recorded(world, server, 1)
    world.note("removed")

"""nova-compute's guests are taken over and given back; nothing restarts."""
from agent import Agent
from world import scenario


@scenario
def there_and_back(world):
    """A guest made by nova-compute, managed by the agent, given back to nova-compute, and deleted by it."""
    host = world.hosts["compute1"]
    nova = Agent(world.daemons, world.cloud, host, "nova-compute")
    world.agent.stop()
    nova.start()
    try:
        server = world.create(booted=True)
        world.create("stopped").act("os-stop")
        stopped = world.servers[1]
        stopped.wait("SHUTOFF")
        world.note("made by nova-compute")
        world.begin_here()
        process = qemu(host, server)
        nova.stop()

        world.agent.start()
        world.check([] if qemu(host, server) == process else ["the guest's QEMU isn't the same after the change"])
        server.wait_console(f"HYPERNOVA-GUEST heartbeat boot=1 count={beats(server) + 1} ")
        world.note("taken over")
        world.begin_here()
        server.act("pause")
        server.wait("PAUSED")
        server.act("unpause")
        server.wait()
        stopped.act("os-start")
        stopped.wait()
        stopped.wait_boot(2)
        world.note("managed")
        world.begin_here()
        process = qemu(host, server)
        world.agent.stop()

        nova.start()
        world.check([] if qemu(host, server) == process else ["the guest's QEMU isn't the same after the change back"])
        server.wait_console(f"HYPERNOVA-GUEST heartbeat boot=1 count={beats(server) + 1} ")
        world.note("given back")
        world.begin_here()
        server.act("reboot", {"type": "HARD"})
        server.wait()
        server.wait_boot(2)
        world.note("rebooted by nova-compute")
        world.begin_here()
        for one in world.servers:
            one.delete()
        for one in world.servers:
            world.deleted(one)
        # Both at once, and by nova-compute.
        world.begin_here()
    finally:
        nova.stop()
        # For what the scenario left, if it failed.
        world.agent.ensure()


def qemu(host, server):
    """The process of a server's guest."""
    domain = host.virsh("domname", server.id).strip()
    return host.run("cat", f"/run/libvirt/qemu/{domain}.pid").strip()


def beats(server):
    """The last heartbeat that the console shows."""
    found = server.wait_console(r"(?s).*HYPERNOVA-GUEST heartbeat boot=1 count=(\d+) ")
    return int(found[1])

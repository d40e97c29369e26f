"""Builds that fail, and deletes that come too early: the fault the user sees, and nothing left behind."""
import signal

from plane import until
from world import scenario


@scenario
def broken_image(world):
    """An image that isn't what it says ends the build at once; another host could do no better."""
    server = world.ask(image="broken")
    server.wait("ERROR")
    world.note("failed")


@scenario
def no_other_host(world):
    """libvirt refuses the domain: the build goes back to the conductor, which knows no other host."""
    server = world.ask(image="unstartable")
    server.wait("ERROR")
    world.note("failed")


@scenario
def another_host(world):
    """What fails here is built there: the conductor gets the request back with what was tried."""
    host = world.hosts["compute1"]
    world.second.start()
    world.enable_only("compute1", "compute2")
    # The first host's QEMU is no QEMU while this lasts; the weigher prefers neither host, so the other one waits.
    host.run("mount", "--bind", "/bin/false", "/usr/bin/qemu-system-x86_64")
    try:
        world.enable_only("compute1")
        server = world.ask(host=None)
        until(60, "a host to be chosen", lambda: world.cloud.server(server.id)["OS-EXT-STS:task_state"] != "scheduling")
        server.wait()
        world.note("built")
    finally:
        host.run("umount", "/usr/bin/qemu-system-x86_64")
        for one in list(world.servers):
            world.cloud.delete(one.id)
        world.enable_only("compute1", "compute2")
        world.second.stop()


@scenario
def delete_while_building(world):
    """A server is deleted while its build waits for neutron: the build ends, and nothing is left of it."""
    controller = world.daemons.processes["compute1-ovn-controller"]
    # No port comes up while OVN's agent stands still.
    controller.send_signal(signal.SIGSTOP)
    try:
        server = world.ask()
        until(60, "the build to wait", lambda: world.cloud.server(server.id)["OS-EXT-STS:task_state"] == "spawning")
        until(30, "the domain to be defined", lambda: world.hosts["compute1"].domains())
        server.delete()
    finally:
        controller.send_signal(signal.SIGCONT)
    world.deleted(server)
    world.note("deleted")


@scenario
def port_never_comes_up(world):
    """neutron never says that the port is plugged: the build fails after vif_plugging_timeout."""
    controller = world.daemons.processes["compute1-ovn-controller"]
    world.agent.restart(more={"DEFAULT": {"vif_plugging_timeout": "5"}})
    controller.send_signal(signal.SIGSTOP)
    try:
        server = world.ask()
        server.wait("ERROR")
    finally:
        controller.send_signal(signal.SIGCONT)
        world.agent.restart()
    world.note("failed")

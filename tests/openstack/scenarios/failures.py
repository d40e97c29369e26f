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
    """What fails here is built there: the conductor gets the request back with what was tried, and takes the next host."""
    host = world.hosts["compute1"]
    world.second.start()
    world.learn()
    # The scheduler prefers the host with more memory left.
    ballast = world.cloud.create("ballast", host="compute2")
    try:
        world.cloud.wait(ballast)
        # While this lasts the first host's QEMU is none.
        host.run("mount", "--bind", "/bin/false", "/usr/bin/qemu-system-x86_64")
        try:
            server = world.ask(host=None)
            server.wait()
        finally:
            host.run("umount", "/usr/bin/qemu-system-x86_64")
        world.note("built")
        server.delete()
    finally:
        world.cloud.delete(ballast)
        world.second.stop()


# nova-compute's delete waits for its build, and that for the port.
@scenario(more={"DEFAULT": {"vif_plugging_timeout": "10"}})
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
    # nova-compute waits for the build to fail and tells of an error before the delete; the agent ends the build.
    world.begin_here()
    world.note("deleted")


@scenario(more={"DEFAULT": {"vif_plugging_timeout": "10"}})
def port_never_comes_up(world):
    """neutron never says that the port is plugged: the build fails after vif_plugging_timeout."""
    controller = world.daemons.processes["compute1-ovn-controller"]
    controller.send_signal(signal.SIGSTOP)
    try:
        server = world.ask()
        server.wait("ERROR")
    finally:
        controller.send_signal(signal.SIGCONT)
    world.note("failed")

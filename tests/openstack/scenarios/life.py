"""A server's life between create and delete."""
import re
import time

from cloud import Answered, Cloud
from world import scenario


def heartbeats(server):
    return [int(count) for count in re.findall(r"HYPERNOVA-GUEST heartbeat boot=\d+ count=(\d+)", server.console_log())]


@scenario
def pause(world):
    """A paused guest stands still, and goes on where it was."""
    server = world.running()
    server.act("pause")
    server.wait("PAUSED")
    world.note("paused")
    before = heartbeats(server)
    time.sleep(4)
    world.check([] if heartbeats(server) == before else ["a paused guest's heart beats"])
    server.act("unpause")
    server.wait()
    server.wait_console(rf"HYPERNOVA-GUEST heartbeat boot=1 count={max(before, default=0) + 1} ")
    world.note("unpaused")


@scenario
def suspend(world):
    """A suspended guest is saved on the disk, and resumed without a boot."""
    server = world.running()
    server.act("suspend")
    server.wait("SUSPENDED")
    world.note("suspended")
    server.act("resume")
    server.wait()
    world.note("resumed")
    # libvirt begins the console's log anew; a guest that had booted would count from a boot of its own.
    server.wait_console(r"HYPERNOVA-GUEST heartbeat boot=1 ")


@scenario
def stop_and_start(world):
    """The guest hears of the stop in time to end by itself, and boots again from the same disk."""
    server = world.running()
    server.act("os-stop")
    server.wait("SHUTOFF")
    server.wait_console("HYPERNOVA-GUEST power-button")
    world.note("stopped")
    server.act("os-start")
    server.wait()
    server.wait_boot(2)
    world.note("started")


@scenario
def reboot_soft(world):
    """The guest ends by itself and boots again."""
    server = world.running()
    server.act("reboot", {"type": "SOFT"})
    server.wait()
    server.wait_boot(2)
    world.note("rebooted")


@scenario
def reboot_hard(world):
    """Off and on again, whatever the guest does."""
    server = world.running()
    server.act("reboot", {"type": "HARD"})
    server.wait()
    server.wait_boot(2)
    world.note("rebooted")


@scenario
def lock(world):
    """A locked server refuses its owner until it is unlocked; the agent hears of none of it."""
    server = world.running()
    server.act("lock", {"locked_reason": "not now"})
    world.note("locked")
    try:
        Cloud("demo", "demo").act(server.id, "os-stop")
        world.check(["another project stopped the server"])
    except Answered as answer:
        world.check([] if answer.status == 404 else [str(answer)])
    server.act("unlock")
    server.act("os-stop")
    server.wait("SHUTOFF")
    world.note("stopped")


@scenario
def rename(world):
    """A new name and new metadata are the records' affair; the domain gets them with its next definition."""
    server = world.running()
    world.cloud.compute.put(f"/servers/{server.id}", {"server": {"name": "renamed"}})
    world.cloud.compute.post(f"/servers/{server.id}/metadata", {"metadata": {"changed": "yes"}})
    world.note("renamed")
    server.act("reboot", {"type": "HARD"})
    server.wait()
    world.note("rebooted")


@scenario
def guest_powers_off(world):
    """A guest that ends by itself is found out, and its server becomes SHUTOFF."""
    server = world.running()
    server.type("sync; poweroff -f")
    server.wait("SHUTOFF")
    world.note("off")


@scenario
def force_delete(world):
    """A delete that doesn't ask for the state."""
    server = world.running()
    server.act("pause")
    server.wait("PAUSED")
    world.begin_here()
    server.act("forceDelete")
    world.deleted(server)
    world.note("deleted")


@scenario
def delete_stopped(world):
    """A stopped server goes too."""
    server = world.running()
    server.act("os-stop")
    server.wait("SHUTOFF")
    world.begin_here()
    server.delete()
    world.deleted(server)
    world.note("deleted")

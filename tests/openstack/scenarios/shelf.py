"""A server's disks change places: rescue, rebuild, shelving. What the guest finds on them is counted at each boot."""
from plane import until
from world import scenario


def offloaded(world, server):
    """Waits until a shelved server is on no host: nova says so only after the status."""
    server.wait("SHELVED_OFFLOADED")
    until(60, "the host to be left", lambda: not server.cloud.server(server.id)["OS-EXT-SRV-ATTR:host"])
    world.notifications.quiet()


@scenario
def rescue(world):
    """The server boots from another disk of its own image, and gets its own back as it was."""
    server = world.running()
    server.act("rescue", {"adminPass": "secret"})
    server.wait("RESCUE")
    server.wait_boot(1)
    world.note("rescued")
    server.act("unrescue")
    server.wait()
    server.wait_boot(2)
    world.note("unrescued")


@scenario
def rescue_with_an_image(world):
    """The image is named; a server that was off comes back running, as nova's does."""
    server = world.running()
    server.act("os-stop")
    server.wait("SHUTOFF")
    world.begin_here()
    server.act("rescue", {"adminPass": "secret", "rescue_image_ref": world.cloud.image_id("guest-raw")})
    server.wait("RESCUE")
    server.wait_boot(1)
    world.note("rescued")
    server.act("unrescue")
    server.wait()
    server.wait_boot(2)
    world.note("unrescued")


@scenario
def rescue_in_place(world):
    """The rescue image's properties ask for a device beside those that the server has: none of them moves."""
    server = world.running()
    server.act("rescue", {"adminPass": "secret", "rescue_image_ref": world.cloud.image_id("medic")})
    server.wait("RESCUE")
    # Its loader names the first disk, which is the server's own, for the root file system.
    server.wait_boot(2)
    world.note("rescued")
    server.act("unrescue")
    server.wait()
    server.wait_boot(3)
    world.note("unrescued")


@scenario
def delete_rescued(world):
    """A rescued server is deleted with all its disks."""
    server = world.running()
    server.act("rescue", {"adminPass": "secret"})
    server.wait("RESCUE")
    world.begin_here()
    server.delete()
    world.deleted(server)
    world.note("deleted")


@scenario
def rebuild(world):
    """A fresh disk of another image; identity, port and address stay."""
    server = world.running()
    server.act("rebuild", {"imageRef": world.cloud.image_id("guest-raw"), "adminPass": "secret"})
    server.wait()
    server.wait_boot(1)
    world.note("rebuilt")


@scenario
def rebuild_of_a_stopped_server(world):
    """Built, started, and stopped again; of the image that it had."""
    server = world.running()
    server.act("os-stop")
    server.wait("SHUTOFF")
    world.begin_here()
    server.act("rebuild", {"imageRef": world.cloud.image_id("guest"), "adminPass": "secret"})
    server.wait("SHUTOFF")
    world.note("rebuilt")
    server.act("os-start")
    server.wait()
    server.wait_console(r"HYPERNOVA-GUEST booted boot=[12] ")
    world.note("started")


@scenario
def shelve(world):
    """Its disk becomes an image and the host is free of it; unshelved, it goes on where it was."""
    server = world.running()
    server.act("shelve")
    offloaded(world, server)
    world.note("offloaded")
    server.act("unshelve")
    server.wait()
    server.wait_boot(2)
    world.note("unshelved")


@scenario
def shelve_of_a_stopped_server(world):
    """One that is off is shelved too, and runs when it is unshelved."""
    server = world.running()
    server.act("os-stop")
    server.wait("SHUTOFF")
    world.begin_here()
    server.act("shelve")
    offloaded(world, server)
    world.note("offloaded")
    server.act("unshelve")
    server.wait()
    server.wait_boot(2)
    world.note("unshelved")


@scenario(more={"DEFAULT": {"shelved_offload_time": "3600"}})
def shelve_and_stay(world):
    """Where the host keeps it for a while, unshelving is starting it; and it leaves when it is told to."""
    server = world.running()
    server.act("shelve")
    server.wait("SHELVED")
    world.note("shelved")
    server.act("unshelve")
    server.wait()
    server.wait_boot(2)
    world.note("started")
    server.act("shelve")
    server.wait("SHELVED")
    world.notifications.quiet()
    server.act("shelveOffload")
    offloaded(world, server)
    world.note("offloaded")
    server.act("unshelve")
    server.wait()
    server.wait_boot(3)
    world.note("unshelved")


@scenario
def delete_shelved(world):
    """A shelved server is on no host: its delete is the API's alone, and its image goes with it."""
    server = world.running()
    server.act("shelve")
    offloaded(world, server)
    world.begin_here()
    server.delete()
    world.cloud.gone(server.id)
    world.note("deleted")

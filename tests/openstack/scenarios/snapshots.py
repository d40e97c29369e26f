"""Images made of servers: snapshots and backups. What is in them is told by a guest that is built of them."""
import contextlib
import time

from plane import Failed, until
from world import scenario

# What is another's each time, or measures the moment.
VARYING = ("checksum", "os_hash_value", "size", "virtual_size", "file", "schema", "self", "stores", "locations", "direct_url")


def made_of(world, server):
    """The images made of a server, the oldest first."""
    found = world.cloud.image.get("/v2/images", params={"instance_uuid": server.id})["images"]
    return sorted(found, key=lambda image: (image["created_at"], image["name"]))


@contextlib.contextmanager
def images(world, server):
    """Deletes a server's images when the block ends."""
    try:
        yield
    finally:
        for image in made_of(world, server):
            world.cloud.image.delete(f"/v2/images/{image['id']}")


def note(world, step, server):
    """The server and its images."""
    found = made_of(world, server)
    for number, image in enumerate(found):
        world.names.learn(image["id"], f"image {image['name']} {number + 1}")
        for key in VARYING:
            image.pop(key, None)
        if image.get("boot_roles"):
            image["boot_roles"] = ",".join(sorted(image["boot_roles"].split(",")))
    world.note(step)
    world.note_value(f"{step}: images", found)


def take(world, server, name="snapshot", status="ACTIVE"):
    image = server.act("createImage", {"name": name})["image_id"]
    server.wait(status)
    until(30, "the image to be active", lambda: world.cloud.image.get(f"/v2/images/{image}")["status"] == "active", 0.3)
    return image


def build_of(world, image):
    """A guest of that image counts on from where the first one was."""
    copy = world.create("copy", imageRef=image)
    copy.wait_boot(2)


@scenario
def snapshot(world):
    """Of a running guest, which runs on; one that is built of it has its data."""
    server = world.running()
    with images(world, server):
        server.type("sync; echo synced-$((1 + 1))")
        server.wait_console("synced-2")
        image = take(world, server)
        note(world, "taken", server)
        build_of(world, image)
        world.note("built")


@scenario
def snapshot_of_a_stopped_server(world):
    """Of one that is off, which stays off."""
    server = world.running()
    server.act("os-stop")
    server.wait("SHUTOFF")
    world.begin_here()
    with images(world, server):
        image = take(world, server, status="SHUTOFF")
        note(world, "taken", server)
        build_of(world, image)
        world.note("built")


@scenario
def snapshot_of_a_paused_server(world):
    """Of one that stands still, and still does."""
    server = world.running()
    server.act("pause")
    server.wait("PAUSED")
    world.begin_here()
    with images(world, server):
        take(world, server, status="PAUSED")
        note(world, "taken", server)


@scenario
def backup(world):
    """Of three daily backups with a rotation of two, the oldest goes."""
    server = world.running()
    with images(world, server):
        for number in range(3):
            server.act("createBackup", {"name": f"backup {number + 1}", "backup_type": "daily", "rotation": 2})
            server.wait()
            until(30, "the image to be active", lambda: made_of(world, server)[-1]["status"] == "active", 0.3)
            time.sleep(1)  # Images are told apart by the second in which they were made.
        note(world, "taken", server)


@scenario(proxied=True)
def snapshot_that_glance_refuses(world):
    """glance answers 500 to every upload: no image stays, and the server is as it was."""
    server = world.running()
    with images(world, server):
        world.proxy.fault("glance", method="PUT", path="/file$", status=500)
        server.act("createImage", {"name": "snapshot"})
        server.wait()
        world.proxy.heal()
        note(world, "refused", server)


@scenario(proxied=True)
def delete_while_a_snapshot_is_taken(world):
    """The delete doesn't wait for the upload, and no image stays."""
    server = world.running()
    with images(world, server):
        world.proxy.fault("glance", method="PUT", path="/file$", seconds=8)
        server.act("createImage", {"name": "snapshot"})
        until(60, "the upload to begin", lambda: world.cloud.server(server.id)["OS-EXT-STS:task_state"] == "image_uploading")
        world.begin_here()
        began = time.monotonic()
        server.delete()
        world.deleted(server)
        took = time.monotonic() - began
        try:
            until(30, "the image to go", lambda: not made_of(world, server))
        except Failed as left:
            world.check([str(left)] if world.kind != "nova-compute" else [])
        world.check([] if took < 8 or world.kind == "nova-compute" else [f"the delete took {took:.0f} s"])
        world.begin_here()

"""Volumes: cinder's, on its NFS backend, attached to servers and taken away, and booted from.

That backend extends no volume that is attached: tests/host has that.
"""
import contextlib
import os

import control
from cloud import Answered
from plane import until
from world import scenario

EXPORT = "/run/plane/state/nfs/vol"


class Volume:
    def __init__(self, world, **more):
        self.api = world.cloud.volume
        self.id = self.api.post("/volumes", {"volume": {"name": "volume", "size": 1, **more}})["volume"]["id"]
        world.names.learn(self.id, f"volume {more.get('name', '')}".strip())
        self.wait("available")

    def get(self):
        return self.api.get(f"/volumes/{self.id}")["volume"]

    def wait(self, status, seconds=180):
        return until(seconds, f"volume {self.id} to be {status}", lambda: self.get()["status"] == status, 0.1)

    def path(self):
        return os.path.join(EXPORT, f"volume-{self.id}")

    def read(self, length):
        with open(self.path(), "rb") as file:
            return file.read(length)

    def gone(self):
        try:
            self.get()
        except Answered as answer:
            return answer.status == 404
        return False


def ensure_cinder(world):
    """Starts cinder's own services, which only volumes need. They stay."""
    workers = ("cinder-scheduler", "cinder-volume")
    for worker in workers:
        if not world.daemons.runs(worker):
            control.start_worker(world.daemons, worker)

    def up():
        return {one["binary"] for one in world.cloud.volume.get("/os-services")["services"] if one["state"] == "up"} >= set(workers)
    until(90, "cinder to be up", up, 0.5)


@contextlib.contextmanager
def volume(world, **more):
    """A volume as long as the block runs."""
    ensure_cinder(world)
    made = Volume(world, **more)
    try:
        yield made
    finally:
        if not made.gone():
            made.wait("available")
            made.api.delete(f"/volumes/{made.id}")
            until(60, "the volume to go", made.gone)


def attach(world, server, made):
    world.cloud.compute.post(f"/servers/{server.id}/os-volume_attachments", {"volumeAttachment": {"volumeId": made.id}})
    made.wait("in-use")


def detach(world, server, made):
    world.cloud.compute.delete(f"/servers/{server.id}/os-volume_attachments/{made.id}")
    made.wait("available")


@scenario
def attach_and_detach(world):
    """A volume comes to a running guest, is written to, lives through a hard reboot, and goes with what was written."""
    with volume(world) as made:
        server = world.running()
        attach(world, server, made)
        server.wait_console(r"HYPERNOVA-GUEST disks .*vdb")
        world.note("attached")
        server.type("echo volume-data > /dev/vdb; sync; echo written-$((1 + 1))")
        server.wait_console("written-2")
        server.act("reboot", {"type": "HARD"})
        server.wait()
        server.wait_boot(2)
        world.note("rebooted")
        detach(world, server, made)
        world.note("detached")
        world.check([] if made.read(11) == b"volume-data" else [f"the volume has {made.read(11)}"])


@scenario
def attach_to_a_stopped_server(world):
    """A server that is off gets a volume with its next start."""
    with volume(world) as made:
        server = world.running()
        server.act("os-stop")
        server.wait("SHUTOFF")
        attach(world, server, made)
        world.note("attached")
        server.act("os-start")
        server.wait()
        server.wait_boot(2)
        world.note("started")
        server.act("os-stop")
        server.wait("SHUTOFF")
        detach(world, server, made)
        world.note("detached")


@scenario
def delete_with_a_volume(world):
    """A volume that is attached to a server outlives it."""
    with volume(world) as made:
        server = world.running()
        attach(world, server, made)
        world.note("attached")
        server.delete()
        world.deleted(server)
        made.wait("available")
        world.note("deleted")


@scenario
def two_volumes(world):
    """Each has a name of its own, and the mount of both stays until the last one goes."""
    with volume(world, name="one") as one, volume(world, name="two") as two:
        server = world.running()
        attach(world, server, one)
        attach(world, server, two)
        world.note("attached")
        detach(world, server, one)
        world.note("one detached")
        detach(world, server, two)
        world.note("detached")


@scenario
def boot_from_a_volume(world):
    """A server without an image: its root disk is a volume, which stays when it goes."""
    with volume(world, imageRef=world.cloud.image_id("guest")) as made:
        mapping = {"boot_index": 0, "uuid": made.id, "source_type": "volume", "destination_type": "volume"}
        server = world.create(booted=True, image="", flavor="diskless", block_device_mapping_v2=[mapping])
        world.note("booted")
        server.act("os-stop")
        server.wait("SHUTOFF")
        world.notifications.quiet()
        server.act("os-start")
        server.wait()
        server.wait_boot(2)
        world.note("started")
        server.delete()
        world.deleted(server)
        made.wait("available")


@scenario
def boot_from_a_new_volume(world):
    """The volume is made of an image for the build, with another that is empty, and both go with the server."""
    ensure_cinder(world)
    image = world.cloud.image_id("guest")
    root = {"boot_index": 0, "uuid": image, "source_type": "image", "destination_type": "volume", "volume_size": 1,
            "delete_on_termination": True}
    blank = {"boot_index": -1, "source_type": "blank", "destination_type": "volume", "volume_size": 1, "delete_on_termination": True}
    server = world.create(booted=True, image="", flavor="diskless", block_device_mapping_v2=[root, blank])
    made = [one["volumeId"] for one in world.cloud.compute.get(f"/servers/{server.id}/os-volume_attachments")["volumeAttachments"]]
    for number, id_ in enumerate(made):
        world.names.learn(id_, f"volume {number + 1}")
    world.note("booted")
    server.delete()
    world.deleted(server)

    def gone():
        left = {one["id"] for one in world.cloud.volume.get("/volumes")["volumes"]}
        return not left & set(made)
    until(60, "the volumes to go", gone)


@scenario
def a_volume_that_is_away(world):
    """The volume's file is not there: the attach fails, the volume is available again, and the server runs on."""
    with volume(world) as made:
        server = world.running()
        os.rename(made.path(), made.path() + ".away")
        try:
            world.cloud.compute.post(f"/servers/{server.id}/os-volume_attachments", {"volumeAttachment": {"volumeId": made.id}})
            until(60, "the attach to fail", lambda: made.get()["status"] == "available" and not world.cloud.compute.get(
                f"/servers/{server.id}/os-volume_attachments")["volumeAttachments"])
        finally:
            os.rename(made.path() + ".away", made.path())
        world.note("failed")

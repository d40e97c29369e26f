"""What benches/storage measures: the operations that move a gigabyte. Started by tests/openstack/inside.

What the bare tools take for the same (a download into a file and qemu-img; qemu-img and an upload) is measured in the same run;
an agent's own time is what it takes beyond that.
"""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from openstack import PROGRAMS, Bench, show  # noqa: E402

from cloud import upload  # noqa: E402
from main import bring_up  # noqa: E402
from plane import ROOT, Daemons, until  # noqa: E402
from scenarios.faults import forget_images  # noqa: E402
from scenarios.volumes import attach, detach, volume  # noqa: E402
from world import World  # noqa: E402

MIB = 1 << 20
WANTED = {
    "first boot, 1 GiB": ("s", "1"), "of it the agent's own": ("s", "1/2"),
    "live snapshot, 2 GiB": ("s", "1"), "of that the agent's own": ("s", "1/2"),
    "pause of another meanwhile": ("s", "1"), "boot of the snapshot": ("s", "1"),
    "volume attach": ("s", "1"), "volume detach": ("s", "1"), "delete": ("s", "1"),
}


def big_image(cloud):
    """An image with a gigabyte that no format makes smaller, behind the guest's partitions."""
    raw, qcow2 = f"{ROOT}/big.raw", f"{ROOT}/big.qcow2"
    run("cp", f"{ROOT}/guest/guest.raw", raw)
    with open(raw, "ab") as file:
        for _ in range(1024):
            file.write(os.urandom(MIB))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
    with open(qcow2, "rb") as file:
        image = upload(cloud.image, "big", "qcow2", file)
    os.remove(raw)
    os.remove(qcow2)
    return image


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Storage(Bench):
    def __init__(self, world, name, image):
        super().__init__(world, name)
        self.image = image

    def bare_boot(self):
        """Downloads the image and makes it raw, as a script would."""
        directory = f"{self.agent.host.instances}/_bare"
        os.makedirs(directory)
        began = time.monotonic()
        path = f"/v2/images/{self.image}/file"
        with open(f"{directory}/image", "wb") as file:
            for piece in self.cloud.image.adapter.get(path, stream=True).iter_content(MIB):
                file.write(piece)
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", f"{directory}/image", f"{directory}/raw")
        took = time.monotonic() - began
        run("rm", "-r", directory)
        return took

    def bare_snapshot(self, server):
        """Makes one file of a guest's disk and uploads it, as a script would."""
        copy = f"{self.agent.host.instances}/bare.qcow2"
        began = time.monotonic()
        self.agent.host.run("qemu-img", "convert", "--force-share", "-O", "qcow2", f"/var/lib/nova/instances/{server.id}/disk",
                            "/var/lib/nova/instances/bare.qcow2")
        with open(copy, "rb") as file:
            image = upload(self.cloud.image, "bare", "qcow2", file)
        took = time.monotonic() - began
        self.cloud.image.delete(f"/v2/images/{image}")
        os.remove(copy)
        return took

    def round(self):
        cloud, world = self.cloud, self.world
        forget_images(world)
        bare = self.bare_boot()
        began = time.monotonic()
        server = world.ask(flavor="small", imageRef=self.image)
        cloud.wait(server.id, step=0.02)
        took = time.monotonic() - began
        self.note("first boot, 1 GiB", took)
        self.note("of it the agent's own", took - bare)
        server.wait_boot()
        other = world.create(booted=True)
        time.sleep(2)

        bare = self.bare_snapshot(server)
        began = time.monotonic()
        image = server.act("createImage", {"name": "snapshot"})["image_id"]
        self.timed("pause of another meanwhile", other.id, lambda: other.act("pause"), "PAUSED")
        cloud.wait(server.id, step=0.02)
        until(60, "the image", lambda: cloud.image.get(f"/v2/images/{image}")["status"] == "active", 0.02)
        took = time.monotonic() - began
        self.note("live snapshot, 2 GiB", took)
        self.note("of that the agent's own", took - bare)

        began = time.monotonic()
        copy = world.ask(flavor="small", imageRef=image)
        cloud.wait(copy.id, step=0.02)
        self.note("boot of the snapshot", time.monotonic() - began)
        copy.delete()
        other.delete()
        cloud.image.delete(f"/v2/images/{image}")
        with volume(world) as made:
            began = time.monotonic()
            attach(world, server, made)
            self.note("volume attach", time.monotonic() - began)
            server.wait_console(r"HYPERNOVA-GUEST disks .*vdb")
            began = time.monotonic()
            detach(world, server, made)
            self.note("volume detach", time.monotonic() - began)
        began = time.monotonic()
        cloud.compute.delete(f"/servers/{server.id}")
        cloud.gone(server.id, step=0.02)
        self.note("delete", time.monotonic() - began)
        world.servers.clear()

    def all(self, rounds):
        self.agent.stop()
        self.start()
        for _ in range(rounds):
            self.round()
        self.agent.stop()


def main():
    words = dict(word.split("=") for word in sys.argv[1:] if "=" in word)
    agents = [word for word in sys.argv[1:] if "=" not in word] or list(PROGRAMS)
    daemons = Daemons()
    world = World(daemons, bring_up(daemons), agents[0])
    image = big_image(world.cloud)
    figures = {}
    for agent in agents:
        bench = Storage(world, agent, image)
        print(f"measuring {agent}", flush=True)
        try:
            bench.all(int(words.get("cycles", 3)))
        except Exception as error:  # the others are worth their figures all the same
            print(f"{agent} broke off: {error}", flush=True)
        figures[agent] = bench.figures
    show(figures, WANTED)


if __name__ == "__main__":
    main()

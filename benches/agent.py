"""What benches/agent measures. Started by tests/host/run, which says where the daemons are.

nova-compute's figures: 33.0.2 on Python 3.11, 2 cores, no guests on the host unless said.
"""
import json
import os
import re
import statistics
import subprocess
import sys
import time
import uuid

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests", "host"))

import kombu  # noqa: E402

from nova_client import Guest, run  # noqa: E402
from world import HOST, World  # noqa: E402

NOVA_RSS_MIB = 182.7
NOVA_START_S = 12.0


def line(what, value, unit, wanted, beside=None):
    """One figure; `beside`: (what it is compared with, its value)."""
    text = f"{what:<58} {value:>9.3g} {unit:<6} wanted {wanted:<9}"
    if beside:
        text += f" {beside[0]} {beside[1]:.3g} {unit}: {value / beside[1]:.3f} of it"
    print(text, flush=True)


def resident_mib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return int(re.search(r"^Rss: +(\d+)", file.read(), re.M)[1]) / 1024


def settled_mib(world, seconds=5):
    time.sleep(seconds)
    return resident_mib(world.agent_pid())


def test_driver(world, domains):
    """Configures libvirt's test driver with so many running domains."""
    path = os.path.join(world.directory, "many.xml")
    with open(path, "w") as file:
        file.write("<node><cpu><mhz>2000</mhz><model>i686</model><active>16</active><nodes>1</nodes><sockets>1</sockets>"
                   "<cores>16</cores><threads>1</threads></cpu><memory>134217728</memory>")
        for number in range(domains):
            file.write(f"<domain type='test'><name>instance-{number:08x}</name><uuid>{uuid.UUID(int=number + (4 << 76) + (8 << 60))}</uuid>"
                       "<memory>131072</memory><vcpu>1</vcpu><os><type>hvm</type></os><devices>"
                       f"<disk type='file' device='disk'><source file='/x/{number}'/><target dev='vda' bus='virtio'/></disk>"
                       "<interface type='user'><model type='virtio'/></interface></devices></domain>")
        file.write("</node>")
    return f"connection_uri = test://{path}"


def memory(world):
    world.write_config()
    world.start_agent()
    line("resident, idle, on RabbitMQ and libvirt", settled_mib(world), "MiB", "<= 25", ("nova-compute", NOVA_RSS_MIB))
    world.stop_agent()
    world.write_config(libvirt=test_driver(world, 300))
    world.start_agent()
    for _ in range(5):
        world.hypernova("node", "--json")
    line("resident, 300 domains (libvirt's test driver)", settled_mib(world), "MiB", "<= 40", ("nova-compute, none", NOVA_RSS_MIB))
    world.stop_agent()
    world.write_config()


def start(world, runs=7):
    """From exec to the answer to a request that waited in the queue: it can't be answered before the agent consumes."""
    world.write_config()
    world.start_agent()  # declares the queues, which stay
    world.stop_agent()
    took = []
    with kombu.Connection(world.nova.url.replace("rabbit://", "amqp://", 1)) as connection:
        channel = connection.default_channel
        reply = kombu.Queue(f"reply_{uuid.uuid4().hex}", durable=False, auto_delete=True, channel=channel)
        reply.declare()
        answers = []
        with kombu.Consumer(channel, [reply], callbacks=[lambda body, message: (answers.append(body), message.ack())]):
            for _ in range(runs):
                answers.clear()
                world.nova.publish_raw(world.nova.envelope({
                    "method": "ping", "namespace": "baseapi", "version": "1.1", "args": {"arg": "x"}, "_unique_id": uuid.uuid4().hex,
                    "_msg_id": uuid.uuid4().hex, "_reply_q": reply.name, "_timeout": None,
                    **{f"_context_{key}": value for key, value in world.nova.context().items()}}))
                began = time.monotonic()
                world.start_agent(ready=False)
                while not answers:
                    connection.drain_events(timeout=30)
                took.append(time.monotonic() - began)
                world.stop_agent()
    line(f"exec to consuming (median of {runs}, nsenter's exec included)", statistics.median(took), "s", "<= 0.3", ("nova-compute", NOVA_START_S))


def spawn(world, runs=9):
    """The agent's time for a build whose image is cached, and a bare script's for the same qemu-img and virsh commands.

    The agent's clock is its own log: `elapsed_ms` of the workflow. The wall clock of `hypernova boot --wait` is beside it.
    """
    world.write_config(hypernova="log_format = json")
    world.start_agent()
    picture = f"{world.images}/guest.qcow2"

    def boot(name):
        began = time.monotonic()
        world.hypernova("boot", name, "--image", picture, "--memory", "128", "--vcpus", "1", "--disk", "1", "--network", "none",
                        "--wait", timeout=120)
        took = time.monotonic() - began
        guest = Guest(world, name)
        guest.uuid = json.loads(world.hypernova("show", name, "--json"))["instance"]["uuid"]
        return guest, took

    template, _ = boot("template")
    xml = world.virsh("dumpxml", "--inactive", template.uuid)
    info = json.loads(run("qemu-img", "info", "-U", "--output=json", os.path.join(world.instance_directory(template), "disk")))
    base, base_format = info["full-backing-filename"], info["backing-filename-format"]
    name = world.virsh("domname", template.uuid).strip()

    walls, agents, bare = [], [], []
    for number in range(runs):
        guest, took = boot(f"spawn{number}")
        walls.append(took)
        agents += workflow_seconds(world, guest.uuid)
        world.hypernova("delete", guest.uuid, timeout=60)

        other = str(uuid.uuid4())
        directory = os.path.join(world.instances, other)
        definition = os.path.join(world.directory, "bare.xml")
        with open(definition, "w") as file:
            file.write(xml.replace(template.uuid, other).replace(f"<name>{name}</name>", f"<name>bare-{number}</name>"))
        began = time.monotonic()
        run(*world.enter(), "bash", "-ec",
            'mkdir "$1"; qemu-img info --output=json "$2" >/dev/null; qemu-img create -q -f qcow2 -b "$2" -F "$3" "$1/disk" 1G; '
            'virsh -q -c qemu:///system define "$4" >/dev/null; virsh -q -c qemu:///system start "$5" >/dev/null',
            "bare", directory, base, base_format, definition, f"bare-{number}")
        bare.append(time.monotonic() - began)
        world.virsh("destroy", f"bare-{number}")
        world.virsh("undefine", f"bare-{number}")
        run("rm", "-rf", directory)
    world.hypernova("delete", template.uuid, timeout=60)
    world.stop_agent()
    world.write_config()
    script = ("bare script", statistics.median(bare))
    if agents:
        line(f"spawn of a cached image, agent's own (median of {len(agents)})", statistics.median(agents), "s", "<= 1.25x", script)
    line("the same, wall clock of `hypernova boot --wait`", statistics.median(walls), "s", "-", script)


def workflow_seconds(world, instance):
    """What the agent's log says that the spawn of `instance` took: the longest time on a line that isn't a step's."""
    found = []
    with open(world.log, errors="replace") as file:
        for text in file:
            if instance in text and "workflow" in text and "step done" not in text and (took := re.search(r'"elapsed_ms":"?(\d+)', text)):
                found.append(int(took[1]) / 1000)
    return [max(found)] if found else []


def inventory(world):
    """`node show` with more and more domains, less what it costs with none."""
    took = {}
    for domains in (0, 100, 300):
        world.write_config(libvirt=test_driver(world, domains) if domains else "connection_uri = test:///default")
        world.start_agent()
        times = []
        for _ in range(9):
            began = time.monotonic()
            world.hypernova("node", "--json")
            times.append(time.monotonic() - began)
        took[domains] = statistics.median(times) * 1000
        world.stop_agent()
    world.write_config()
    for domains, milliseconds in took.items():
        line(f"node show, {domains} domains", milliseconds, "ms", "linear", ("none", took[0]) if domains else None)


def size(world):
    line("release binary", os.path.getsize(world.binary) / (1 << 20), "MiB", "<= 15")
    tree = subprocess.run(["cargo", "tree", "--locked", "--prefix", "none", "--no-dedupe", "-e", "normal,build", "--format", "{p}"],
                          cwd=TOP, capture_output=True, text=True, check=True).stdout
    line("crates in the tree", len({each.removesuffix(" (*)") for each in tree.splitlines() if each}), "", "<= 260")


def main():
    every = {function.__name__: function for function in (size, memory, start, inventory, spawn)}
    world = World()
    print(f"{os.cpu_count()} cores, {HOST}, {time.strftime('%Y-%m-%d')}", flush=True)
    for name in sys.argv[1:] or every:
        try:
            every[name](world)
        except Exception as error:
            print(f"{name}: could not be measured: {error}", flush=True)
            if world.agent_runs():
                world.kill_agent()
            world.write_config()
    world.forget_guests() if world.agent_runs() else None


main()

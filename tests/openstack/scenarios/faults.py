"""The services around the agent fail: what can be done again is, the rest ends as nova ends it, and nothing is left."""
import glob
import os
import signal
import time

import infra
from plane import Failed, until
from world import scenario


def outcome(world, recovers=False):
    """A build as it ends, whichever way. `recovers`: the agent builds what nova-compute gives up."""
    server = world.ask()
    until(240, "the build to end", lambda: world.cloud.server(server.id)["status"] in ("ACTIVE", "ERROR"), 0.5)
    if recovers:
        status = world.cloud.server(server.id)["status"]
        world.check([] if status == "ACTIVE" or world.kind == "nova-compute" else [f"the server is {status}"])
    else:
        world.note("ended")
    # How often what was tried is an agent's own affair.
    world.begin_here()
    return server


def forget_images(world):
    """The next build has to fetch its image."""
    for path in glob.glob(f"{world.hosts['compute1'].instances}/_base/*"):
        os.remove(path)


# --- keystone

@scenario(proxied=True)
def token_is_refused(world):
    """A service answers 401 to a token that was good a moment ago: a new one is got, and the build goes on."""
    fault = world.proxy.fault("neutron", status=401, body="{}", times=1)
    began = time.time()
    outcome(world)
    fresh = [one for one in world.proxy.count(since=began, service="keystone") if one[3] == "POST"]
    world.note_value("meanwhile", {"refused": fault.hit, "new tokens": len(fresh) > 0})


# --- neutron

def neutron(name, doc, **fault):
    def run(world):
        world.proxy.fault("neutron", method="POST", path="/v2.0/ports", **fault)
        outcome(world)
    run.__name__, run.__doc__, run.__module__ = f"neutron_{name}", doc, __name__
    scenario(run, proxied=True)


neutron("conflict", "409 to the port's creation.", status=409, headers={"Content-Type": "application/json"},
        body='{"NeutronError": {"type": "OverQuota", "message": "Quota exceeded for resources: [\'port\'].", "detail": ""}}')
neutron("too_many", "429 to the port's creation.", status=429, body="slow down")
neutron("error", "500 to the port's creation.", status=500, body="oops")
neutron("garbage", "An answer to the port's creation that isn't JSON.", status=201, body="<html>",
        headers={"Content-Type": "application/json"})
neutron("slow", "The port's creation takes five seconds longer.", seconds=5)


@scenario(proxied=True)
def neutron_down(world):
    """neutron refuses connections: the build fails. nova-compute leaves files and the allocation, the agent leaves nothing."""
    world.proxy.refuse("neutron")
    server = world.ask()
    server.wait("ERROR")
    if world.kind != "nova-compute":
        files = os.path.isdir(f"{world.hosts['compute1'].instances}/{server.id}")
        allocations = world.cloud.placement.get(f"/allocations/{server.id}")["allocations"]
        world.check([f"left: {what}" for what in (files and "files", allocations) if what])
    world.begin_here()


# --- glance

@scenario(proxied=True)
def glance_errors_once(world):
    """500 to the first request for the image's bytes: asked again."""
    forget_images(world)
    fault = world.proxy.fault("glance", path="/file$", status=500, times=1)
    outcome(world, recovers=True)
    world.check([] if fault.hit == 1 else ["the image wasn't fetched"])


@scenario(proxied=True)
def glance_breaks_off(world):
    """The connection ends half-way through the image's bytes: never is half an image used."""
    forget_images(world)
    world.proxy.fault("glance", path="/file$", cut=1 << 20, times=1)
    outcome(world, recovers=True)


@scenario(proxied=True)
def glance_down(world):
    """glance refuses connections: the build fails."""
    forget_images(world)
    world.proxy.refuse("glance")
    outcome(world)


# --- placement

@scenario(proxied=True)
def placement_down(world):
    """Without placement a server is made and deleted all the same, and its allocation goes when placement is back."""
    world.proxy.refuse("placement")
    try:
        server = outcome(world)
        server.act("pause")
        server.wait("PAUSED")
    finally:
        world.proxy.open("placement")


@scenario(proxied=True)
def placement_conflicts(world):
    """409 to the first write of the start, because another wrote meanwhile: read again, written again."""
    world.agent.stop()
    world.proxy.fault("placement", method="PUT", path="/(inventories|traits)$", status=409, times=1,
                      headers={"Content-Type": "application/json"},
                      body='{"errors": [{"status": 409, "code": "placement.concurrent_update", "title": "Conflict", "detail": ""}]}')
    world.agent.start(proxied=True)
    outcome(world)


# --- cinder

@scenario(proxied=True)
def cinder_down(world):
    """A hard reboot of a server without volumes works without cinder. nova-compute asks for its attachments, and fails."""
    server = world.running()
    world.proxy.refuse("cinder")
    server.act("reboot", {"type": "HARD"})
    until(60, "the reboot to end", lambda: world.cloud.server(server.id)["OS-EXT-STS:task_state"] is None)
    if world.kind != "nova-compute":
        server.wait_boot(2)
    world.begin_here()


# --- the bus and the conductor

@scenario
def conductor_stands_still(world):
    """The conductor answers eight seconds late: what is under way waits, and is done."""
    server = world.running()
    conductor = world.daemons.processes["nova-conductor"]
    conductor.send_signal(signal.SIGSTOP)
    try:
        server.act("pause")
        time.sleep(8)
    finally:
        conductor.send_signal(signal.SIGCONT)
    server.wait("PAUSED")
    world.note("paused")


@scenario
def broker_restarts(world):
    """The broker goes and comes back, and forgets every queue that isn't durable: within ten seconds the agent serves again."""
    server = world.running()
    world.daemons.stop("rabbitmq", seconds=60)
    infra.broker(world.daemons)
    consumes_again(world)
    serves_again(world, server, 10)


@scenario
def queues_are_deleted(world):
    """The agent's queues are deleted under it: it makes them anew."""
    server = world.running()
    for queue in infra.rabbitmqctl("list_queues", "--no-table-headers", "name").split():
        if queue.startswith("compute") and "compute2" not in queue:
            infra.rabbitmqctl("delete_queue", queue)
    consumes_again(world)
    serves_again(world, server, 10)


@scenario
def broker_is_out_of_reach(world):
    """Nothing gets through between the host and the controller for 15 seconds; what was sent meanwhile is done."""
    server = world.running()
    host = world.hosts["compute1"]
    host.run("ip", "route", "add", "blackhole", "10.66.0.1/32")
    try:
        server.act("pause")
        time.sleep(15)
    finally:
        host.run("ip", "route", "del", "blackhole", "10.66.0.1/32")
    server.wait("PAUSED", 60)
    world.note("paused")
    world.begin_here()


def consumes_again(world):
    """The agent listens again in time. What the API sends before that is lost, and it waits a minute for the answer."""
    until(10 if world.kind != "nova-compute" else 90, "a consumer on the agent's queue", lambda: "compute.compute1\t1" in
          infra.rabbitmqctl("list_queues", "--no-table-headers", "name", "consumers"), 0.5)


def serves_again(world, server, seconds):
    """A question that goes from the API through the broker to the agent and back is answered in time."""
    def answered():
        return "HYPERNOVA-GUEST" in server.act("os-getConsoleOutput", {"length": 50})["output"]
    began = time.monotonic()
    until(120, "the agent to answer", answered)
    took = time.monotonic() - began
    # nova-api itself needs a while to find the broker again: its own measure is nova-compute's.
    world.check([] if took < seconds or world.kind == "nova-compute" else [f"the agent answers after {took:.0f} s"])
    server.act("pause")
    server.wait("PAUSED")
    world.note("paused")
    world.begin_here()


# --- another's identity

def refuses_to_start(world, **how):
    world.agent.start(wait=False, **how)
    try:
        # nova-compute refuses at once, and then takes 160 s to stop.
        until(200, "the agent to end", lambda: not world.agent.runs())
        return {"refuses": True, "fails": world.daemons.processes[world.agent.name].returncode != 0}
    except Failed:
        return {"refuses": False}
    finally:
        world.agent.stop()


@scenario
def renamed_host(world):
    """The node of this host is another's by the new name: the agent doesn't start."""
    world.agent.stop()
    world.note_value("start", refuses_to_start(world, more={"DEFAULT": {"host": "renamed"}}))
    world.note_value("services", sorted(
        one["host"] for one in world.cloud.compute.get("/os-services", params={"binary": "nova-compute"})["services"]
        if one["host"] != "compute2"))


@scenario
def foreign_compute_id(world):
    """The identity on the disk isn't the one that nova knows the host by: the agent doesn't start."""
    world.agent.stop()
    path = f"{world.hosts['compute1'].lib}/nova/compute_id"
    with open(path) as file:
        mine = file.read()
    try:
        with open(path, "w") as file:
            file.write("11111111-2222-4333-8444-555555555555\n")
        world.note_value("start", refuses_to_start(world))
    finally:
        with open(path, "w") as file:
            file.write(mine)

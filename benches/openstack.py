"""What benches/openstack measures. Started by tests/openstack/inside, in the control plane's namespaces.

Times are what a user of the API sees: from the request to the wanted status with no task under way, asked every 20 ms.
"""
import json
import os
import re
import statistics
import sys
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests", "openstack"))

import kombu  # noqa: E402

import infra  # noqa: E402
from bus import URL  # noqa: E402
from main import bring_up  # noqa: E402
from plane import BIN, ROOT, Daemons, until  # noqa: E402
from world import World  # noqa: E402

PROGRAMS = {
    "nova-compute": [f"{BIN}/nova-compute"],
    # -P: what nova imports as `openstack` isn't this file
    "nova-compute-fast": [f"{BIN}/python", "-P", "/run/suite/benches/nova_compute_fast.py"],
    "hypernova": [f"{ROOT}/hypernova", "serve"],
}
# what -> unit, the most that hypernova may take (a number, or a part of nova-compute's)
WANTED = {
    "exec to consuming": ("s", 0.3), "exec to consuming, 10 guests": ("s", 0.5),
    "resident": ("MiB", 25), "resident, 10 guests": ("MiB", 30), "CPU a minute, idle, 10 guests": ("s", 0.07),
    "create": ("s", 1.8), "delete": ("s", 1.9), "reboot hard": ("s", 2.0), "start": ("s", 0.8), "pause": ("s", 0.2),
    "unpause": ("s", None), "stop": ("s", None), "reboot soft": ("s", None),
    "ten creates": ("s", "1/3"), "ten deletes": ("s", "1/3"),
    "conductor calls of a create": ("", "1"), "HTTP requests of a create": ("", "1"), "broker connections": ("", 2),
}
# The calls that only a compute agent makes: the other services read the database themselves.
CONDUCTOR = {"object_action", "object_class_action", "object_class_action_versions", "object_backport_versions"}


class Bench:
    def __init__(self, world, name):
        self.world = world
        self.cloud = world.cloud
        self.agent = world.agent
        self.agent.program = PROGRAMS[name]
        self.agent.kind = name
        self.figures = {}

    def note(self, what, value):
        self.figures.setdefault(what, []).append(round(value, 3))

    # --- the process

    def start(self, what=None, **how):
        """Starts the agent; the time until the broker counts a consumer on its queue."""
        queue = f"compute.{self.agent.host.name}"
        with kombu.Connection(URL) as connection:
            until(60, "the last agent's consumers to be gone", lambda: consumers(connection, queue) == 0)
            began = time.monotonic()
            self.agent.start(wait=False, **how)
            until(120, "a consumer", lambda: consumers(connection, queue), 0.005)
            if what:
                self.note(what, time.monotonic() - began)
        self.agent.wait_up(time.time())

    def processes(self):
        """The agent and its helpers, which have left its process tree but not its mount namespace."""
        mine = self.agent.pid()
        namespace = os.readlink(f"/proc/{mine}/ns/mnt")
        found = {mine}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    if "privsep-helper" in file.read() and os.readlink(f"/proc/{pid}/ns/mnt") == namespace:
                        found.add(int(pid))
            except OSError:
                pass
        return found

    def resident(self):
        total = 0
        for pid in self.processes():
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += int(re.search(r"^Rss: +(\d+)", file.read(), re.M)[1])
        return total / 1024

    def cpu(self):
        ticks = 0
        for pid in self.processes():
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    # --- the operations

    def timed(self, what, server, action, status="ACTIVE"):
        began = time.monotonic()
        action()
        self.cloud.wait(server, status, step=0.02)
        self.note(what, time.monotonic() - began)

    def cycle(self):
        act = self.cloud.act
        began = time.monotonic()
        server = self.world.ask()
        self.cloud.wait(server.id, step=0.02)
        self.note("create", time.monotonic() - began)
        server.wait_boot()
        time.sleep(2)  # the guest's own start-up is over
        id_ = server.id
        self.timed("pause", id_, lambda: act(id_, "pause"), "PAUSED")
        self.timed("unpause", id_, lambda: act(id_, "unpause"))
        self.timed("stop", id_, lambda: act(id_, "os-stop"), "SHUTOFF")
        self.timed("start", id_, lambda: act(id_, "os-start"))
        server.wait_boot(2)
        time.sleep(2)
        self.timed("reboot soft", id_, lambda: act(id_, "reboot", {"type": "SOFT"}))
        server.wait_boot(3)
        self.timed("reboot hard", id_, lambda: act(id_, "reboot", {"type": "HARD"}))
        server.wait_boot(4)
        began = time.monotonic()
        self.cloud.compute.delete(f"/servers/{id_}")
        self.cloud.gone(id_, step=0.02)
        self.note("delete", time.monotonic() - began)
        self.world.servers.clear()

    def ten(self):
        began = time.monotonic()
        self.cloud.create("ten", host="compute1", min_count=10, max_count=10)
        ids = [one["id"] for one in self.cloud.compute.get("/servers", params={"name": "ten"})["servers"]]
        for id_ in ids:
            self.cloud.wait(id_, seconds=300, step=0.1)
        self.note("ten creates", time.monotonic() - began)
        time.sleep(45)
        self.note("resident, 10 guests", self.resident())
        before, began = self.cpu(), time.monotonic()
        time.sleep(90)
        self.note("CPU a minute, idle, 10 guests", (self.cpu() - before) / (time.monotonic() - began) * 60)
        self.agent.stop()
        self.start("exec to consuming, 10 guests")
        time.sleep(20)
        began = time.monotonic()
        for id_ in ids:
            self.cloud.compute.delete(f"/servers/{id_}")
        for id_ in ids:
            self.cloud.gone(id_, 300, step=0.1)
        self.note("ten deletes", time.monotonic() - began)

    def counts(self, proxy):
        """One create with everything that leaves the agent counted."""
        self.agent.stop()
        self.start(proxied=True)
        self.world.create().delete()  # what is only asked for once is known then
        self.world.servers.clear()
        with Trace() as trace:
            time.sleep(1)
            trace.calls.clear()
            began = time.time()
            server = self.world.create()
            time.sleep(0.5)
            mine = [one for one in proxy.count(since=began) if one[2] == self.agent.host.address]
            self.note("HTTP requests of a create", len(mine))
            self.note("conductor calls of a create", len(trace.calls))
            self.calls = {"conductor": list(trace.calls), "HTTP": [f"{service} {method} {re.sub('[0-9a-f-]{36}', '{id}', path)} {status}"
                                                                 for _, service, _, method, path, status in mine]}
        peers = infra.rabbitmqctl("list_connections", "peer_host").split()
        self.note("broker connections", peers.count(self.agent.host.address))
        server.delete()
        self.world.servers.clear()

    def all(self, cycles, proxy):
        self.agent.stop()
        for _ in range(3):
            self.start("exec to consuming")
            self.agent.stop()
        self.start()
        time.sleep(15)
        self.note("resident", self.resident())
        self.world.create().delete()  # the image is in the cache from here on
        self.world.servers.clear()
        for _ in range(cycles):
            self.cycle()
        self.ten()
        self.counts(proxy)
        self.agent.stop()


def consumers(connection, queue):
    channel = connection.channel()
    try:
        return channel.queue_declare(queue, passive=True).consumer_count
    except connection.channel_errors:
        return 0
    finally:
        channel.close()


class Trace:
    """The broker's own account of what is published; `calls` are the agent's to the conductor."""

    def __enter__(self):
        infra.rabbitmqctl("trace_on")
        self.calls, self.ends = [], False
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()
        return self

    def listen(self):
        with kombu.Connection(URL) as connection:
            channel = connection.default_channel
            queue = kombu.Queue("trace", exclusive=True, auto_delete=True, durable=False, channel=channel)
            queue.declare()
            queue.bind_to("amq.rabbitmq.trace", "publish.#")
            with kombu.Consumer(channel, [queue], on_message=self.take, accept=None, no_ack=True):
                while not self.ends:
                    try:
                        connection.drain_events(timeout=0.5)
                    except TimeoutError:
                        pass

    def take(self, message):
        if message.headers.get("routing_keys") != ["conductor"]:
            return
        body = json.loads(message.body)
        body = json.loads(body["oslo.message"]) if "oslo.message" in body else body
        if body["method"] in CONDUCTOR:
            args = body["args"]
            name = args.get("objname") or (args.get("objinst") or {}).get("nova_object.name")
            self.calls.append(f"{name}.{args.get('objmethod', body['method'])}")

    def __exit__(self, *_):
        self.ends = True
        self.thread.join()
        infra.rabbitmqctl("trace_off")


def show(figures, rows):
    medians = {agent: {what: statistics.median(values) for what, values in found.items()} for agent, found in figures.items()}
    old, fast, new = (medians.get(agent, {}) for agent in PROGRAMS)
    print(f"{'':<34}{'nova-compute':>13}{'its poll 5 ms':>15}{'hypernova':>11}{'ratio':>8}{'ratio':>8}  wanted")
    for what, (unit, wanted) in rows.items():
        values = [found.get(what) for found in (old, fast, new)]
        cells = ["-" if value is None else f"{value:.3g} {unit}" for value in values]
        ratios = [f"{values[2] / other:.3f}" if values[2] is not None and other else "" for other in values[:2]]
        limit = wanted if not isinstance(wanted, str) else values[0] and values[0] * {"1/3": 1 / 3, "1/2": 1 / 2, "1": 1}[wanted]
        verdict = "" if not limit or values[2] is None else (
            f"<= {limit:.3g} {unit}" + ("" if values[2] <= limit else "   NOT REACHED"))
        print(f"{what:<34}{cells[0]:>13}{cells[1]:>15}{cells[2]:>11}{ratios[0]:>8}{ratios[1]:>8}  {verdict}")


def main():
    words = dict(word.split("=") for word in sys.argv[1:] if "=" in word)
    agents = [word for word in sys.argv[1:] if "=" not in word] or list(PROGRAMS)
    daemons = Daemons()
    world = World(daemons, bring_up(daemons), agents[0])
    proxy = world.proxy
    figures, calls = {}, {}
    for agent in agents:
        bench = Bench(world, agent)
        print(f"measuring {agent}", flush=True)
        try:
            bench.all(int(words.get("cycles", 5)), proxy)
        except Exception as error:  # the others are worth their figures all the same
            print(f"{agent} broke off: {error}", flush=True)
        figures[agent] = bench.figures
        calls[agent] = getattr(bench, "calls", {})
        with open(f"{ROOT}/figures.json", "w") as file:
            json.dump({"figures": figures, "calls of a create": calls}, file, indent=1)
    show(figures, WANTED)


if __name__ == "__main__":
    main()

"""What a scenario works with: the cloud, the hosts, the agents, its servers, and what it has seen of them."""
import os
import re
import shutil

from agent import Agent
from bus import Notifications
from cloud import Cloud
from facts import Names, flatten
from faultproxy import Proxy
from look import Records, look
from plane import Failed, run, until

SCENARIOS = {}


class Scenario:
    """A function, the agent's configuration it needs, and the file it is in, which names its group."""

    def __init__(self, function, agent):
        self.run = function
        self.agent = agent
        self.group = function.__module__.rsplit(".", 1)[-1]


def scenario(function=None, **agent):
    """Registers a scenario; its name is the function's, its doc line says what it is about. `agent`: how the agent has to
    be started for it (Agent.start)."""
    if function is None:
        return lambda function: scenario(function, **agent)
    SCENARIOS[function.__name__.replace("_", "-")] = Scenario(function, agent)
    return function


class World:
    def __init__(self, daemons, hosts, kind):
        self.daemons = daemons
        self.hosts = hosts
        self.kind = kind
        self.cloud = Cloud()
        self.records = Records()
        self.notifications = Notifications()
        self.proxy = Proxy()
        self.agent = Agent(daemons, self.cloud, hosts["compute1"], kind)
        # The host that takes what the first one can't: always nova-compute, and only there when a scenario asks for it.
        self.second = Agent(daemons, self.cloud, hosts["compute2"], "nova-compute")
        self.begin()

    # --- one scenario after the other

    def begin(self):
        """Forgets the last scenario's servers and what was seen of them."""
        self.names = Names()
        self.servers = []
        self.steps = []
        self.wrong = []
        self.notifications.clear()
        self.proxy.heal()
        self.learn()

    def learn(self):
        cloud = self.cloud
        for image in cloud.image.get("/v2/images")["images"]:
            self.names.learn(image["id"], f"image {image['name']}")
        for network in cloud.network.get("/v2.0/networks")["networks"]:
            self.names.learn(network["id"], f"network {network['name']}")
        for subnet in cloud.network.get("/v2.0/subnets")["subnets"]:
            self.names.learn(subnet["id"], f"subnet {subnet['name']}")
        for provider in cloud.placement.get("/resource_providers")["resource_providers"]:
            self.names.learn(provider["uuid"], f"provider {provider['name']}")
        self.names.learn(cloud.session.get_project_id(), "project")
        self.names.learn(cloud.session.get_user_id(), "user")

    def note(self, step):
        """Looks at the scenario's servers and keeps what is seen as a step of that name."""
        facts = {}
        for number, server in enumerate(self.servers):
            prefix = f"{number + 1}: " if number else ""
            facts.update((prefix + path, value) for path, value in look(self, server.id).items())
        self.steps.append((step, facts, False))

    def note_value(self, step, value):
        """Keeps something else as a step: a map or a list."""
        self.steps.append((step, flatten(value, self.names), True))

    def heard(self):
        """The scenario's notifications about its servers, in order, as facts, by format. The scheduler's are left out."""
        self.notifications.quiet()
        heard = {"notifications": [], "versioned_notifications": []}
        for one in self.notifications.about({server.id for server in self.servers}):
            if "scheduler" not in one["publisher"]:
                kept = {key: one[key] for key in ("event", "publisher", "priority", "payload")}
                heard[one["format"]].append(flatten(kept, self.names))
        return heard

    def begin_here(self):
        """What was heard so far, of a server being made, is another scenario's."""
        self.notifications.quiet()
        self.notifications.clear()

    # --- servers

    def adopt(self, id_):
        """Counts a server that is there among the scenario's."""
        server = Server(self, id_)
        self.servers.append(server)
        self.names.learn(id_, f"server {len(self.servers)}" if len(self.servers) > 1 else "server")
        return server

    def ask(self, name="server", **more):
        """Asks for a server and doesn't wait for it. On the host of the tested agent, unless another `host` is named."""
        return self.adopt(self.cloud.create(name, **{"host": "compute1", **more}))

    def create(self, name="server", booted=False, **more):
        server = self.ask(name, **more)
        server.wait()
        if booted:
            server.wait_boot()
        return server

    def deleted(self, server):
        """Waits until a server has gone and all has been said of it."""
        self.cloud.gone(server.id)

        def ended():
            heard = self.notifications.about({server.id})
            return any(one["event"] == "instance.delete.end" for one in heard)
        until(20, "the end of the delete to be told", ended)
        self.notifications.quiet()

    def running(self, **more):
        """A server with a booted guest, noted as `created`; its creation isn't the scenario's subject."""
        server = self.create(booted=True, **more)
        self.note("created")
        self.begin_here()
        return server

    def check(self, lines):
        """Says what is wrong beyond the expectations."""
        self.wrong += lines


class Server:
    def __init__(self, world, id_):
        self.world = world
        self.cloud = world.cloud
        self.id = id_

    def host(self):
        return self.world.hosts[self.cloud.server(self.id)["OS-EXT-SRV-ATTR:host"]]

    def wait(self, status="ACTIVE", seconds=180):
        return self.cloud.wait(self.id, status, seconds)

    def act(self, action, value=None, **more):
        return self.cloud.act(self.id, action, value, **more)

    def delete(self):
        self.cloud.delete(self.id)

    def console_log(self):
        """The console's log as the host has it on its disk."""
        with open(f"{self.host().instances}/{self.id}/console.log", errors="replace") as file:
            return file.read()

    def keep_console(self, path):
        """Copies the console's log, if there is one, to where it outlives the server."""
        for host in self.world.hosts.values():
            log = f"{host.instances}/{self.id}/console.log"
            if os.path.exists(log):
                shutil.copy(log, path)

    def wait_console(self, pattern, seconds=90):
        return until(seconds, f"{pattern} on the console", lambda: re.search(pattern, self.console_log()), 0.5)

    def wait_boot(self, number=1):
        """Waits until the guest says that it is up for the so-manieth time; the count is on its root disk."""
        return self.wait_console(rf"HYPERNOVA-GUEST booted boot={number} .*")

    def type(self, text):
        host = self.host()
        host.type(host.virsh("domname", self.id).strip(), text)


__all__ = ["SCENARIOS", "Failed", "Server", "World", "run", "scenario"]

"""The agent on a compute host: nova-compute or hypernova, with the same configuration files."""
import configparser
import time

from plane import BIN, ETC, LOG, ROOT, Failed, log_tail, until

class Agent:
    def __init__(self, daemons, cloud, host, kind):
        self.daemons = daemons
        self.cloud = cloud
        self.host = host
        self.kind = kind
        self.name = f"{host.name}-agent"
        self.log = f"{LOG}/{self.name}.log"
        self.how = (False, None)
        self.program = {"nova-compute": [f"{BIN}/nova-compute"], "hypernova": [f"{ROOT}/hypernova", "serve"]}[kind]

    def command(self, proxied=False, more=None):
        files = [f"{ETC}/compute.conf", f"{ETC}/{self.host.name}.conf"]
        if proxied:
            files.append(f"{ETC}/proxied.conf")
        if more:
            parser = configparser.ConfigParser(interpolation=None, default_section=None)
            parser.read_dict(more)
            files.append(f"{self.host.directory}/more.conf")
            with open(files[-1], "w") as file:
                parser.write(file)
        return [*self.program, *(argument for file in files for argument in ("--config-file", file))]

    def start(self, proxied=False, more=None, wait=True):
        """`more`: section -> option -> value, over the files' own; `proxied`: its requests go through the fault proxy. Waits
        until nova counts on the host."""
        self.how = (proxied, more)
        if wait:
            # A report has its second only: what the agent before this one reported last isn't to be taken for this one's.
            time.sleep(1 - time.time() % 1)
        begin = time.time()
        with open(self.log, "a") as log:
            log.write(f"--- {self.kind} starts{' behind the proxy' if proxied else ''} {more or ''}\n")
        self.host.start("agent", *self.command(proxied, more), env={"HOME": "/var/lib/nova"})
        if wait:
            self.wait_up(begin)

    def wait_up(self, since, seconds=120):
        """Up, by a report of this process, and known to the API's cell mapping."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))

        def up():
            if not self.daemons.runs(self.name):
                raise RuntimeError(f"the agent ended:\n{log_tail(self.name)}")
            service = self.cloud.service(self.host.name)
            return service and service["state"] == "up" and (service["updated_at"] or "") >= stamp and self.hypervisor()
        try:
            until(seconds, f"{self.kind} on {self.host.name} to be up", up, 0.3)
        except Failed as failure:
            raise Failed(f"{failure}\n{log_tail(self.name)}") from None

    def hypervisor(self):
        for found in self.cloud.compute.get("/os-hypervisors/detail")["hypervisors"]:
            if found["service"]["host"] == self.host.name:
                return found
        return None

    def stop(self):
        return self.daemons.stop(self.name)

    def ensure(self, proxied=False, more=None):
        """Runs, and in this way."""
        if not self.runs() or self.how != (proxied, more):
            self.restart(proxied=proxied, more=more)

    def restart(self, **how):
        self.stop()
        self.start(**how)

    def pid(self):
        return self.daemons.pid(self.name)

    def runs(self):
        return self.daemons.runs(self.name)

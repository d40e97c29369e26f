"""The host under test: the agent's process, its configuration, the private libvirt, an image server.

tests/host/run starts libvirt and RabbitMQ (daemons.sh) and says in the environment where they are:
D (the directory of everything), TRANSPORT_URL, HYPERNOVA (the agent's binary), GUEST (the guest image's directory).
"""
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time

from nova_client import Nova, image, run
from scenarios import PATIENCE

HERE = os.path.dirname(os.path.abspath(__file__))
HOST = "hypernova-test"


class ImageServer:
    """Serves a directory over HTTP with ranges, as slowly as asked, and counts what was asked for."""

    def __init__(self, directory):
        self.directory = directory
        self.rate = None  # bytes a second
        self.cut_after = None  # break each connection off after so many bytes
        self.requests = []  # (method, path, Range header)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                outer.requests.append((self.command, self.path, self.headers.get("Range")))
                path = os.path.join(outer.directory, os.path.basename(self.path))
                if not os.path.isfile(path):
                    self.send_error(404)
                    return
                size = os.path.getsize(path)
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
                start = int(wanted[1]) if wanted else 0
                self.send_response(206 if wanted else 200)
                if wanted:
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", f'"{size}"')
                self.send_header("Content-Length", str(size - start))
                self.end_headers()
                sent = 0
                with open(path, "rb") as file:
                    file.seek(start)
                    while body and (chunk := file.read(65536)):
                        try:
                            self.wfile.write(chunk)
                        except OSError:
                            self.close_connection = True
                            return
                        sent += len(chunk)
                        if outer.cut_after and sent >= outer.cut_after:
                            self.close_connection = True
                            return
                        if outer.rate:
                            time.sleep(len(chunk) / outer.rate)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, name):
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def gets(self, name):
        return [request for request in self.requests if request[:2] == ("GET", f"/{name}")]

    def reset(self):
        self.rate = self.cut_after = None
        self.requests.clear()


# nova: compute/power_state.py
POWER_STATES = {"pending": 0, "running": 1, "paused": 3, "shutdown": 4, "crashed": 6, "suspended": 7}


class World:
    def __init__(self):
        self.directory = os.environ["D"]
        self.binary = os.environ["HYPERNOVA"]
        self.guest_image = os.environ["GUEST"]
        self.state = os.path.join(self.directory, "nova")
        self.instances = os.path.join(self.state, "instances")
        self.images = os.path.join(self.state, "images")
        self.tmp = os.path.join(self.directory, "tmp")
        self.socket = os.path.join(self.directory, "hypernova.sock")
        self.config = os.path.join(self.directory, "hypernova.conf")
        self.log = os.path.join(self.directory, "log", "hypernova.log")
        for directory in (self.instances, self.images, self.tmp):
            os.makedirs(directory, exist_ok=True)
        for name in ("guest.qcow2", "guest.raw", "vmlinuz", "initrd", "rootfs.img"):
            shutil.copy(os.path.join(self.guest_image, name), self.images)
        self.write_config()
        self.nova = Nova(os.environ["TRANSPORT_URL"], HOST)
        self.server = ImageServer(self.images)
        self.guests = []
        self.process = None

    def write_config(self, **more):
        """The agent's configuration, in nova.conf's words. `more`: section -> lines."""
        sections = {
            "DEFAULT": f"""
                host = {HOST}
                transport_url = {os.environ["TRANSPORT_URL"]}
                compute_driver = libvirt.LibvirtDriver
                state_path = {self.state}
                instances_path = {self.instances}
                shutdown_timeout = {round(20 * PATIENCE)}
                debug = true""",
            "hypernova": f"""
                control_plane = standalone
                socket = {self.socket}
                image_directories = {self.images}
                metrics_listen =
                log_format = text""",
            "compute": "shutdown_retry_interval = 5",
            "libvirt": "virt_type = qemu\ncpu_mode = none",
            "vnc": "enabled = true\nserver_listen = 127.0.0.1\nserver_proxyclient_address = 127.0.0.1",
        }
        for section, lines in more.items():
            sections[section] = sections.get(section, "") + "\n" + lines
        with open(self.config, "w") as file:
            for section, lines in sections.items():
                file.write(f"[{section}]\n" + "".join(line.strip() + "\n" for line in lines.splitlines()) + "\n")

    # --- commands

    def enter(self):
        """What puts a command into the private host's namespaces."""
        with open(os.path.join(self.directory, "run", "anchor.pid")) as file:
            return ["nsenter", "--target", file.read().strip(), "--mount", "--uts", "--root", "--"]

    def virsh(self, *arguments, check=True):
        return run(*self.enter(), "virsh", "-q", "-c", "qemu:///system", *arguments, check=check)

    def hypernova(self, *arguments, check=True, timeout=60):
        """A command of the agent's command line, over its socket."""
        return run(self.binary, "--socket", self.socket, *arguments, check=check, timeout=timeout)

    def daemons(self, functions):
        """Runs functions of daemons.sh, such as `_stop libvirtd`."""
        run("bash", "-c", f'. "$1"; daemons_begin "$2"; {functions}', "daemons", f"{HERE}/daemons.sh", self.directory, timeout=120)

    # --- the agent

    def start_agent(self, ready=True):
        assert not self.agent_runs(), "the agent runs already"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.enter(), self.binary, "serve", "--config-file", self.config], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, env={**os.environ, "TMPDIR": self.tmp, "RUST_BACKTRACE": "1"})
        if ready:
            self.wait(lambda: self.nova.ping(timeout=2), 30, lambda: f"the agent doesn't answer:\n{self.log_tail()}")

    def agent_runs(self):
        return self.process is not None and self.process.poll() is None

    def agent_pid(self):
        """nsenter execs the agent, so that the pids are one."""
        return self.process.pid

    def kill_agent(self):
        self.process.kill()
        self.process.wait()

    def stop_agent(self, timeout=30):
        """SIGTERM and the exit status."""
        if not self.agent_runs():
            return None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout * PATIENCE)

    def assert_alive(self, pid=None):
        assert self.agent_runs(), f"the agent died:\n{self.log_tail()}"
        assert pid in (None, self.agent_pid()), "the agent was started anew"
        assert self.nova.ping(timeout=10), f"the agent runs and doesn't answer:\n{self.log_tail()}"

    def log_tail(self, lines=30):
        try:
            with open(self.log, errors="replace") as file:
                return "".join(file.readlines()[-lines:])
        except FileNotFoundError:
            return ""

    # --- looking

    def wait(self, question, timeout, explain, interval=0.1):
        """Asks until the answer is true; AssertionError with `explain()` after `timeout` seconds."""
        timeout *= PATIENCE
        end = time.monotonic() + timeout
        while True:
            if answer := question():
                return answer
            if time.monotonic() >= end:
                raise AssertionError(f"after {timeout:.0f} s: {explain()}")
            time.sleep(interval)

    def show(self, guest):
        """The agent's record of an instance as `hypernova show --json` prints it; None when it knows none."""
        text = self.hypernova("show", guest.uuid, "--json", check=False)
        try:
            record = json.loads(text)
        except ValueError:
            return None
        if not isinstance(record, dict) or "instance" not in record:
            return None
        shown = record["instance"]
        # The command shows names where nova's objects have numbers.
        shown["power_state"] = POWER_STATES.get(shown.get("power_state"), 0)
        return shown

    def domains(self):
        """{uuid: name} of libvirt's domains, running or not."""
        uuids = self.virsh("list", "--all", "--uuid").split()
        return {uuid: self.virsh("domname", uuid, check=False).strip() for uuid in uuids}

    def instance_directory(self, guest):
        return os.path.join(self.instances, guest.uuid)

    def remains(self, guest):
        """What is left of a guest, in words; [] when nothing is."""
        left = []
        if guest.uuid in self.virsh("list", "--all", "--uuid").split():
            left.append("domain")
        if os.path.exists(self.instance_directory(guest)):
            left.append("directory")
        left += [name for name in os.listdir(self.instances) if guest.uuid in name and name != guest.uuid]
        if (record := self.show(guest)) and record["vm_state"] != "deleted":
            left.append(f"record: {record['vm_state']}")
        if run("pgrep", "-f", guest.uuid, check=False).strip():
            left.append("process")
        return left

    def base_files(self):
        base = os.path.join(self.instances, "_base")
        return sorted(os.listdir(base)) if os.path.isdir(base) else []

    # --- images

    def file_image(self, name="guest.qcow2", **options):
        options.setdefault("disk_format", "qcow2" if name.endswith(".qcow2") else "raw")
        return image(f"file://{self.images}/{name}", **options)

    def http_image(self, name="guest.qcow2", **options):
        options.setdefault("disk_format", "qcow2" if name.endswith(".qcow2") else "raw")
        options.setdefault("sha256", run("sha256sum", os.path.join(self.images, name)).split()[0])
        return image(self.server.url(name), size=os.path.getsize(os.path.join(self.images, name)), **options)

    def fresh_copy(self, name, source="guest.qcow2"):
        """A copy of an image under a name of its own."""
        shutil.copy(os.path.join(self.images, source), os.path.join(self.images, name))
        return name

    # --- cleaning up

    def forget_guests(self):
        """Takes away what a failed scenario left, by force where the agent doesn't."""
        for guest in self.guests:
            try:
                if self.remains(guest):
                    guest.delete(timeout=30)
            except Exception:  # whatever went wrong went wrong before
                self.virsh("destroy", guest.uuid, check=False)
                self.virsh("undefine", guest.uuid, "--managed-save", "--nvram", check=False)
                shutil.rmtree(self.instance_directory(guest), ignore_errors=True)
        self.guests.clear()

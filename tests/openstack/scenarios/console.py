"""The guest's console: its log, VNC and serial through nova's proxies."""
import struct
import urllib.parse

from websockify.websocket import WebSocket, WebSocketWantReadError

import control
from host import HOSTS
from plane import CONTROLLER, listens
from world import scenario


@scenario
def console_log(world):
    """All of it, and its last lines."""
    server = world.running()
    whole = server.act("os-getConsoleOutput", {})["output"]
    tail = server.act("os-getConsoleOutput", {"length": 3})["output"]
    none = server.act("os-getConsoleOutput", {"length": 0})["output"]
    world.note_value("log", {"has the boot": "HYPERNOVA-GUEST booted boot=1" in whole, "lines of a tail of 3": len(tail.splitlines()),
                             "none": none})


class Request(WebSocket):
    """websockify's client loses the part of the URL behind the question mark."""

    def send_request(self, method, path):
        super().send_request(method, f"{path}?{self.query}")


class Socket:
    """A websocket to a console proxy, as a browser's page opens it."""

    def __init__(self, port, token):
        self.socket = Request()
        self.socket.query = f"token={token}"
        self.socket.connect(f"ws://{CONTROLLER}:{port}/", origin=f"http://{CONTROLLER}:{port}",
                            protocols=["binary"])
        self.socket.socket.settimeout(20)
        self.waiting = b""

    def read(self, size):
        while len(self.waiting) < size:
            try:
                got = self.socket.recv()
            except WebSocketWantReadError:
                continue  # half a frame
            if got is None:
                raise EOFError("the proxy closed the connection")
            self.waiting += got
        read, self.waiting = self.waiting[:size], self.waiting[size:]
        return read

    def read_until(self, words):
        seen = b""
        while words not in seen:
            seen += self.read(1)
        return seen

    def write(self, data):
        self.socket.send(data)

    def close(self):
        self.socket.socket.close()


def token_of(url):
    """The token in a console's URL; noVNC's has it in the path of another."""
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
    if "path" in query:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(query["path"][0]).query)
    return query["token"][0]


@scenario
def vnc_console(world):
    """A VNC client greets the guest's screen through nova-novncproxy (RFC 6143, 7.1 to 7.3)."""
    server = world.running()
    console = world.cloud.compute.post(f"/servers/{server.id}/remote-consoles",
                                       {"remote_console": {"protocol": "vnc", "type": "novnc"}})["remote_console"]
    token = token_of(console["url"])
    world.names.learn(token, "token")
    vnc = Socket(6080, token)
    version = vnc.read(12)
    vnc.write(version)
    kinds = vnc.read(vnc.read(1)[0])
    vnc.write(b"\1")
    result = struct.unpack(">I", vnc.read(4))[0]
    vnc.write(b"\1")
    width, height = struct.unpack(">HH", vnc.read(4))
    vnc.read(16)
    name = vnc.read(struct.unpack(">I", vnc.read(4))[0]).decode()
    # A whole screen is asked for, and begins to come.
    vnc.write(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
    answer = vnc.read(1)[0]
    vnc.close()
    world.note_value("console", {
        "console": console, "version": version.decode(), "security types": list(kinds), "result": result,
        "has a screen": width > 0 and height > 0, "name": name, "answer to an update request": answer})
    tokens = world.records.rows("select console_type, host, port >= 5900 as has_port, internal_access_path, access_url_base from "
                                "console_auth_tokens where instance_uuid = %s", server.id)
    world.note_value("token's record", tokens)


@scenario(more={"serial_console": {"enabled": "true", "base_url": f"ws://{CONTROLLER}:6083/",
                                   "proxyclient_address": HOSTS["compute1"]}})
def serial_console(world):
    """With serial consoles configured, nova-serialproxy reaches the guest's shell."""
    control.start_worker(world.daemons, "nova-serialproxy")
    try:
        world.daemons.wait("nova-serialproxy", 60, lambda: listens(6083))
        server = world.create()
        world.note("created")
        console = world.cloud.compute.post(f"/servers/{server.id}/remote-consoles",
                                           {"remote_console": {"protocol": "serial", "type": "serial"}})["remote_console"]
        token = token_of(console["url"])
        world.names.learn(token, "token")
        serial = Socket(6083, token)
        # The guest waits for nobody: what it said before is gone, its heart goes on.
        serial.read_until(b"HYPERNOVA-GUEST heartbeat boot=1")
        serial.write(b"\necho said $((40 + 2))\n")
        serial.read_until(b"said 42")
        serial.close()
        world.note_value("console", console)
    finally:
        world.daemons.stop("nova-serialproxy")

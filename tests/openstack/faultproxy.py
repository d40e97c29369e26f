"""A proxy before each API, which answers as a broken service would: only the agent under test is sent through it.

The internal endpoints in the catalog are its ports, 10000 above the services' own. It counts the requests, too.
"""
import http.client
import http.server
import re
import socket
import threading
import time

from control import APIS
from plane import CONTROLLER

PORTS = {name: port for name, (port, *_) in APIS.items()}
# Headers that concern one connection alone.
OWN = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "expect"}


class Fault:
    """What happens to a request instead of, or before, its being passed on.

    `status`: this answer, with `headers` and `body`; `seconds`: so much later; `cut`: so many bytes of the real answer's body
    at most, and then the connection is closed. `times` is how many requests it happens to; None for all.
    """

    def __init__(self, method=".*", path=".*", status=None, body="", headers=(), seconds=0, cut=None, times=None):
        self.method, self.path = re.compile(method), re.compile(path)
        self.status, self.body, self.headers, self.seconds, self.cut = status, body, dict(headers), seconds, cut
        self.left = times
        self.hit = 0

    def takes(self, method, path):
        return self.left != 0 and self.method.fullmatch(method) and self.path.search(path)


class Proxy:
    def __init__(self):
        self.faults = {name: [] for name in PORTS}
        self.requests = []  # (time, service, client, method, path, status)
        self.lock = threading.Lock()
        self.servers = {}
        for name in PORTS:
            self.open(name)

    def open(self, name):
        """Listens for a service again, after `refuse`."""
        if name not in self.servers:
            server = Server((CONTROLLER, PORTS[name] + 10000), Handler)
            server.proxy, server.name = self, name
            self.servers[name] = server
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def refuse(self, name):
        """Connections to a service are refused from now on, as when it is down."""
        server = self.servers.pop(name)
        server.shutdown()
        server.server_close()
        server.break_off()

    def fault(self, name, **how):
        """Adds a fault of a service; it lasts until `heal`."""
        fault = Fault(**how)
        with self.lock:
            self.faults[name].append(fault)
        return fault

    def heal(self):
        with self.lock:
            for faults in self.faults.values():
                faults.clear()
        for name in PORTS:
            self.open(name)

    def close(self):
        for name in list(self.servers):
            self.refuse(name)

    def take(self, name, method, path):
        """The fault that a request meets, None for none."""
        with self.lock:
            for fault in self.faults[name]:
                if fault.takes(method, path):
                    fault.hit += 1
                    if fault.left is not None:
                        fault.left -= 1
                    return fault
        return None

    def count(self, since=0.0, service=None):
        return [one for one in self.requests if one[0] >= since and service in (None, one[1])]


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.open = set()

    def process_request(self, request, address):
        self.open.add(request)
        super().process_request(request, address)

    def shutdown_request(self, request):
        self.open.discard(request)
        super().shutdown_request(request)

    def break_off(self):
        """Ends the connections that clients keep."""
        for request in list(self.open):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def pass_on(self):
        proxy, name = self.server.proxy, self.server.name
        began = time.time()
        body = self.read_body()
        fault = proxy.take(name, self.command, self.path)
        if fault:
            time.sleep(fault.seconds)
        if fault and fault.status:
            status = fault.status
            self.answer(status, fault.headers, fault.body.encode())
        else:
            status = self.forward(name, body, fault.cut if fault else None)
        proxy.requests.append((began, name, self.client_address[0], self.command, self.path, status))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = pass_on

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status, headers, body):
        self.send_response_only(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def forward(self, name, body, cut):
        """Passes a request on, and the answer back, streamed: an image is large."""
        upstream = http.client.HTTPConnection(CONTROLLER, PORTS[name], timeout=300)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for key, value in self.headers.items():
            if key.lower() not in OWN | {"content-length"}:
                upstream.putheader(key, value)
        if body or self.command in ("POST", "PUT", "PATCH"):
            upstream.putheader("Content-Length", str(len(body)))
        upstream.endheaders(body or None)
        response = upstream.getresponse()
        self.send_response_only(response.status, response.reason)
        for key, value in response.getheaders():
            if key.lower() not in OWN:
                self.send_header(key, value)
        empty = self.command == "HEAD" or response.status in (204, 304)
        chunked = response.getheader("Content-Length") is None and not empty
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not empty and (data := response.read(1 << 16)):
            if cut is not None:
                data, cut = data[:cut], max(cut - len(data), 0)
            if not data:
                self.close_connection = True
                self.wfile.flush()
                return response.status
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        upstream.close()
        return response.status

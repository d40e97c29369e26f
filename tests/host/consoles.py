"""Consoles over the network: the serial port's and SPICE's. VNC's is in host_test.py, with the other questions."""
import socket
import struct
import time

from nova_client import Guest
from scenarios import PATIENCE, scenario


def serial_endpoint(world, guest):
    """Where the guest's serial console listens."""
    console = world.nova.call("get_serial_console", instance=guest.instance(), console_type="serial")
    assert world.nova.call("validate_console_port", instance=guest.instance(), port=str(console["port"]),
                           console_type="serial") is True, console
    return console["host"], int(console["port"])


def type_and_read(endpoint, number, timeout=30):
    """Types a command on a serial console and waits for what the guest's shell makes of it."""
    wanted, seen, deadline = f"answer-{number * number}-".encode(), b"", time.monotonic() + timeout * PATIENCE
    with socket.create_connection(endpoint, 10) as connection:
        connection.settimeout(2)
        while wanted not in seen and time.monotonic() < deadline:
            connection.sendall(f"echo answer-$(({number} * {number}))-\n".encode())
            try:
                seen += connection.recv(4096)
            except TimeoutError:
                pass
    assert wanted in seen, f"{wanted} isn't in {seen[-500:]}"


@scenario(400)
def a_serial_console(world):
    """A TCP port that the guest's shell answers on, also after the agent's restart and a resume; nobody else gets it."""
    world.stop_agent(60)
    world.write_config(serial_console="enabled = true\nport_range = 21000:21020\nproxyclient_address = 127.0.0.1")
    try:
        world.start_agent()
        guest = Guest(world, "serial").build(world.file_image())
        guest.wait_boot(1)
        guest.wait_state("active")
        endpoint = serial_endpoint(world, guest)
        assert 21000 <= endpoint[1] <= 21020, endpoint
        type_and_read(endpoint, 12)
        assert "HYPERNOVA-GUEST booted" in guest.console(), "the log goes on beside the port"
        assert world.stop_agent(60) == 0
        world.start_agent()
        assert serial_endpoint(world, guest) == endpoint
        type_and_read(endpoint, 13)

        guest.suspend()
        assert world.stop_agent(60) == 0
        world.start_agent()
        other = Guest(world, "other").build(world.file_image())
        other.wait_boot(1)
        other.wait_state("active")
        assert serial_endpoint(world, other) != endpoint
        guest.resume()
        assert serial_endpoint(world, guest) == endpoint
        type_and_read(endpoint, 14)
        guest.delete()
        other.delete()
    finally:
        world.stop_agent(60)
        world.write_config()
        world.start_agent()


@scenario(200)
def a_spice_console(world):
    """The port on which QEMU's SPICE server answers, beside VNC's."""
    world.stop_agent(60)
    world.write_config(spice="enabled = true\nserver_listen = 127.0.0.1\nserver_proxyclient_address = 127.0.0.1")
    try:
        world.start_agent()
        guest = Guest(world, "spice").build(world.file_image())
        guest.wait_state("active")
        console = world.nova.call("get_spice_console", instance=guest.instance(), console_type="spice-html5")
        assert console["tlsPort"] is None and console["token"] in console["access_url"], console
        for port, valid in ((console["port"], True), (int(console["port"]) + 1, False)):
            assert world.nova.call("validate_console_port", instance=guest.instance(), port=str(port),
                                   console_type="spice-html5") is valid
        with socket.create_connection((console["host"], int(console["port"])), 10) as connection:
            # Version 2.2; a link message of the main channel's, without capabilities.
            message = struct.pack("<IBBIII", 0, 1, 0, 0, 0, 18)
            connection.sendall(b"REDQ" + struct.pack("<III", 2, 2, len(message)) + message)
            assert connection.recv(4) == b"REDQ"
        vnc = world.nova.call("get_vnc_console", instance=guest.instance(), console_type="novnc")
        assert vnc["port"] != console["port"]
        guest.delete()
    finally:
        world.stop_agent(60)
        world.write_config()
        world.start_agent()

"""Runs OpenStack's own API test suite, tempest, against the agent. Started by tests/openstack/inside; see tests/openstack/tempest."""
import argparse
import configparser
import os
import re
import subprocess
import sys

from main import bring_up
from plane import CONTROLLER, ROOT, Daemons
from scenarios.volumes import ensure_cinder
from world import World

HERE = f"{ROOT}/state/tempest"
BIN = f"{ROOT}/tempest/bin"


def settings(cloud):
    """tempest.conf: where things are, and what there isn't here, whichever agent runs."""
    return {
        "auth": {"admin_username": "admin", "admin_password": "secret", "admin_project_name": "admin", "admin_domain_name": "Default",
                 "use_dynamic_credentials": True, "create_isolated_networks": False, "tempest_roles": "member"},
        "identity": {"uri_v3": f"http://{CONTROLLER}:5000/v3", "auth_version": "v3", "v3_endpoint_type": "public", "region": "RegionOne"},
        "compute": {"image_ref": cloud.image_id("guest"), "image_ref_alt": cloud.image_id("guest-raw"), "flavor_ref": "tiny",
                    "flavor_ref_alt": "small", "fixed_network_name": "net", "min_compute_nodes": 1, "build_timeout": 120,
                    "build_interval": 1, "max_microversion": "latest", "volume_device_name": "vdb"},
        "compute-feature-enabled": {
            # One host; and what is absent says so.
            "live_migration": False, "cold_migration": False, "resize": False, "vnc_console": True, "spice_console": False,
            "attach_encrypted_volume": False, "stable_rescue": True, "rescue": True, "shelve": True, "snapshot": True,
            "swap_volume": False, "volume_multiattach": False, "config_drive": True, "interface_attach": True},
        "image": {"build_timeout": 120}, "network": {"build_timeout": 60},
        "network-feature-enabled": {"floating_ips": False, "ipv6": False},
        "validation": {"run_validation": False},
        "volume": {"catalog_type": "block-storage", "build_timeout": 120, "volume_size": 1, "max_microversion": "3.70"},
        "volume-feature-enabled": {"backup": False},
        "service_available": {"cinder": True, "neutron": True, "glance": True, "nova": True, "swift": False, "horizon": False},
        "oslo_concurrency": {"lock_path": f"{HERE}/lock"},
        "DEFAULT": {"log_dir": f"{ROOT}/log", "log_file": "tempest.log", "debug": False},
    }


def write(sections):
    os.makedirs(f"{HERE}/etc", exist_ok=True)
    parser = configparser.ConfigParser(interpolation=None)
    for name, values in sections.items():
        if name != "DEFAULT":
            parser.add_section(name)
        for key, value in values.items():
            parser.set(name, key, str(value))
    with open(f"{HERE}/etc/tempest.conf", "w") as file:
        parser.write(file)


def main():
    parser = argparse.ArgumentParser(prog="tests/openstack/tempest")
    parser.add_argument("--agent", choices=("hypernova", "nova-compute"), default="hypernova")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("pattern", nargs="?", default=r"^tempest\.api\.compute\.")
    options = parser.parse_args()
    daemons = Daemons()
    world = World(daemons, bring_up(daemons), options.agent)
    world.agent.ensure()
    ensure_cinder(world)
    world.cloud.network_id()  # it is there: servers need no other
    environment = {**os.environ, "TEMPEST_CONFIG_DIR": f"{HERE}/etc", "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": HERE}
    subprocess.run([f"{BIN}/tempest", "init", f"{HERE}/work"], env=environment, check=True, stdout=subprocess.DEVNULL)
    write(settings(world.cloud))
    how = ["--list-tests"] if options.list else ["--concurrency", "1"]
    run = subprocess.Popen([f"{BIN}/tempest", "run", "--config-file", f"{HERE}/etc/tempest.conf", "--regex", options.pattern, *how],
                           cwd=f"{HERE}/work", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in run.stdout:
        if not re.match(r"\s*$", line):
            print(line, end="", flush=True)
    return run.wait()


if __name__ == "__main__":
    sys.exit(main())

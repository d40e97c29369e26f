"""The service and its node: records, placement's provider, enabling, disabling, restarting."""
import json

from facts import differences, flatten
from plane import until
from world import scenario


@scenario
def registered(world):
    """The agent's host looks to nova and placement as nova-compute's does on the same machine, started beside it."""
    world.second.start()
    try:
        world.learn()
        found = {name: host_facts(world, name) for name in ("compute1", "compute2")}
        world.check(differences(found["compute2"], found["compute1"]))
        world.note_value("service", service_facts(world, "compute1"))
    finally:
        world.second.stop()


def service_facts(world, host):
    service = world.cloud.service(host)
    service.pop("id")
    return service


def host_facts(world, host):
    """All that nova and placement know of a host, with its name and its address replaced."""
    def hypervisor(microversion):
        listed = world.cloud.compute.get("/os-hypervisors/detail", microversion=microversion)["hypervisors"]
        found = next(one for one in listed if one["service"]["host"] == host)
        found.pop("uptime", None)
        return found

    node = world.records.rows("select * from compute_nodes where host = %s and deleted = 0", host)[0]
    # nova-compute writes the initial allocation ratios first, and those of its configuration a minute later.
    for column in ("id", "service_id", "created_at", "updated_at", "deleted_at", "disk_available_least", "free_disk_gb",
                   "local_gb_used", "cpu_allocation_ratio", "ram_allocation_ratio", "disk_allocation_ratio"):
        node.pop(column)
    for column in ("cpu_info", "supported_instances", "stats", "numa_topology", "pci_stats", "metrics"):
        node[column] = ordered(json.loads(node[column])) if node[column] else None
    (node["stats"] or {}).pop("uptime", None)
    old = hypervisor("2.87")
    old["cpu_info"] = ordered(old["cpu_info"])
    for field in ("free_disk_gb", "local_gb_used", "disk_available_least"):
        old.pop(field)
    placement = world.cloud.placement
    provider = next(one for one in placement.get("/resource_providers")["resource_providers"] if one["name"] == host)
    base = f"/resource_providers/{provider['uuid']}"
    seen = {
        "service": service_facts(world, host),
        "service record": world.records.rows("select topic, report_count > 0 as reports, disabled, version > 0 as has_version, "
                                             "forced_down from services where host = %s", host),
        "hypervisor": hypervisor("2.96"), "hypervisor in 2.87": old, "node": node,
        "provider": {key: provider[key] for key in ("uuid", "name", "root_provider_uuid", "parent_provider_uuid")},
        "inventories": placement.get(f"{base}/inventories")["inventories"],
        # The scheduler of the next release asks for OWNER_NOVA, so the agent always sets it.
        "traits": {trait: True for trait in placement.get(f"{base}/traits")["traits"] if trait != "OWNER_NOVA"},
        "aggregates": placement.get(f"{base}/aggregates")["aggregates"],
        "compute_id": world.hosts[host].run("cat", "/var/lib/nova/compute_id").strip(),
    }
    # The id of the service's record is its number among all.
    seen["hypervisor"]["service"].pop("id")
    old["service"].pop("id")
    address = world.hosts[host].address
    return {path.replace(host, "HOST"): value.replace(host, "HOST").replace(address, "ADDRESS") if isinstance(value, str) else value
            for path, value in flatten(seen, world.names).items()}


def ordered(value):
    """With every list of words in order: they are sets, of features or of changed fields."""
    if isinstance(value, dict):
        return {key: ordered(one) for key, one in value.items()}
    if isinstance(value, list):
        return sorted(value) if all(isinstance(one, str) for one in value) else [ordered(one) for one in value]
    return value


@scenario
def disabled(world):
    """A disabled host says so in placement, and takes it back when it is enabled."""
    service = world.cloud.service("compute1")["id"]
    put = world.cloud.compute.put
    put(f"/os-services/{service}", {"status": "disabled", "disabled_reason": "maintenance"})
    until(20, "the trait", lambda: "COMPUTE_STATUS_DISABLED" in traits(world))
    world.note_value("disabled", service_facts(world, "compute1"))
    put(f"/os-services/{service}", {"status": "enabled"})
    until(20, "the trait to go", lambda: "COMPUTE_STATUS_DISABLED" not in traits(world))
    world.note_value("enabled", service_facts(world, "compute1"))


def traits(world):
    placement = world.cloud.placement
    provider = next(one for one in placement.get("/resource_providers")["resource_providers"] if one["name"] == "compute1")
    return placement.get(f"/resource_providers/{provider['uuid']}/traits")["traits"]


@scenario
def forced_down(world):
    """Forced down, the service stays down however well it reports."""
    service = world.cloud.service("compute1")["id"]
    put = world.cloud.compute.put
    put(f"/os-services/{service}", {"forced_down": True})
    try:
        count = reports(world)
        until(30, "the next report", lambda: reports(world) > count + 1)
        world.note_value("forced down", service_facts(world, "compute1"))
    finally:
        put(f"/os-services/{service}", {"forced_down": False})
    world.note_value("again", service_facts(world, "compute1"))


def reports(world):
    return world.records.rows("select report_count from services where host = 'compute1' and deleted = 0")[0]["report_count"]


@scenario
def restart(world):
    """The agent is started anew: a running guest notices nothing, a stopped one stays stopped, the count of reports goes on."""
    world.running()
    world.create("stopped").act("os-stop")
    world.servers[1].wait("SHUTOFF")
    world.note("before")
    world.begin_here()
    count = reports(world)
    world.agent.restart()
    world.check([] if reports(world) > count else ["the count of reports has begun anew"])
    world.servers[0].wait_console(r"HYPERNOVA-GUEST heartbeat boot=1 ")
    world.note("after")
    world.servers[0].act("os-stop")
    world.servers[0].wait("SHUTOFF")
    world.servers[1].act("os-start")
    world.servers[1].wait()
    world.note("the other way round")

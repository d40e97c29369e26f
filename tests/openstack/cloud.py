"""The services' APIs as the tests use them, and what is in the cloud before a scenario starts."""
import time

import keystoneauth1.session
from keystoneauth1.adapter import Adapter
from keystoneauth1.identity import v3

from plane import CONTROLLER, ROOT, Failed

URL = f"http://{CONTROLLER}"
# nova: the newest microversion of 2026.1 that the scenarios need; older ones are asked for by name.
COMPUTE = "2.96"

SERVICES = {  # type: name, port, path, user
    "image": ("glance", 9292, "", "glance"),
    "placement": ("placement", 8778, "", "placement"),
    "compute": ("nova", 8774, "/v2.1", "nova"),
    "network": ("neutron", 9696, "", "neutron"),
    "block-storage": ("cinder", 8776, "/v3", "cinder"),
}


class Answered(Failed):
    """An API refused; `status` is its code."""

    def __init__(self, response):
        self.status = response.status_code
        super().__init__(f"{response.request.method} {response.request.url}: {response.status_code} {response.text[:500]}")


class Api:
    """One service. Answers are decoded JSON; None for an empty body."""

    def __init__(self, session, **adapter):
        self.adapter = Adapter(session, raise_exc=False, **adapter)

    def request(self, method, path, body=None, **options):
        if body is not None:
            options["json"] = body
        response = self.adapter.request(path, method, **options)
        if response.status_code >= 300:
            raise Answered(response)
        return response.json() if response.content else None

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body=None, **options):
        return self.request("POST", path, body, **options)

    def put(self, path, body=None, **options):
        return self.request("PUT", path, body, **options)

    def delete(self, path, **options):
        return self.request("DELETE", path, **options)


class Cloud:
    def __init__(self, user="admin", project="admin"):
        auth = v3.Password(auth_url=f"{URL}:5000/v3", username=user, password="secret", project_name=project,
                           user_domain_id="default", project_domain_id="default")
        session = keystoneauth1.session.Session(auth)

        def api(service, **more):
            return Api(session, service_type=service, interface="public", region_name="RegionOne", **more)
        self.session = session
        self.identity = Api(session, endpoint_override=f"{URL}:5000/v3")
        self.image = api("image")
        self.network = api("network")
        self.placement = api("placement", default_microversion="1.38")
        self.volume = api("block-storage", default_microversion="3.70")
        self.compute = api("compute", default_microversion=COMPUTE)

    # --- finding things by name

    def image_id(self, name):
        return self.image.get("/v2/images", params={"name": name})["images"][0]["id"]

    def network_id(self, name="net"):
        return self.network.get("/v2.0/networks", params={"name": name})["networks"][0]["id"]

    def service(self, host):
        """The record of a host's nova-compute service, None before it has one."""
        found = self.compute.get("/os-services", params={"binary": "nova-compute", "host": host})["services"]
        return found[0] if found else None

    # --- servers

    def create(self, name="server", image="guest", flavor="tiny", networks=None, microversion=COMPUTE, **more):
        """Asks for a server and gives its id."""
        body = {"name": name, "flavorRef": flavor, "networks": networks or [{"uuid": self.network_id()}],
                "imageRef": self.image_id(image) if image else "", **{key: value for key, value in more.items() if value is not None}}
        return self.compute.post("/servers", {"server": body}, microversion=microversion)["server"]["id"]

    def server(self, server):
        return self.compute.get(f"/servers/{server}")["server"]

    def act(self, server, action, value=None, microversion=COMPUTE):
        return self.compute.post(f"/servers/{server}/action", {action: value}, microversion=microversion)

    def wait(self, server, status="ACTIVE", seconds=180, step=0.2):
        """Waits for a status with no task under way. A server in ERROR, when it isn't waited for, ends the wait."""
        end = time.monotonic() + seconds
        while True:
            now = self.server(server)
            if now["status"] == status and now["OS-EXT-STS:task_state"] is None:
                return now
            if now["status"] == "ERROR" != status:
                raise Failed(f"{now['name']} is in ERROR: {now.get('fault', {}).get('message')}")
            if time.monotonic() > end:
                raise Failed(f"{now['name']} is {now['status']}/{now['OS-EXT-STS:task_state']} after {seconds} s, not {status}")
            time.sleep(step)

    def gone(self, server, seconds=120, step=0.2):
        end = time.monotonic() + seconds
        while True:
            try:
                now = self.server(server)
            except Answered as answer:
                if answer.status == 404:
                    return
                raise
            if time.monotonic() > end:
                raise Failed(f"{now['name']} is still there after {seconds} s: {now['status']}/{now['OS-EXT-STS:task_state']}")
            time.sleep(step)

    def delete(self, server):
        self.compute.delete(f"/servers/{server}")
        self.gone(server)


# --- what is in the cloud from the beginning

def fill_identity():
    """Services' users and the catalog: public endpoints are the services, internal ones the fault proxy before them."""
    identity = Cloud().identity
    roles = {role["name"]: role["id"] for role in identity.get("/roles")["roles"]}
    roles["service"] = identity.post("/roles", {"role": {"name": "service"}})["role"]["id"] if "service" not in roles else roles["service"]
    project = identity.post("/projects", {"project": {"name": "service", "domain_id": "default"}})["project"]["id"]
    for user in ("nova", "glance", "placement", "neutron", "cinder"):
        user = identity.post("/users", {"user": {"name": user, "password": "secret", "domain_id": "default"}})["user"]["id"]
        for role in ("admin", "service"):
            identity.put(f"/projects/{project}/users/{user}/roles/{roles[role]}")
    demo = identity.post("/projects", {"project": {"name": "demo", "domain_id": "default"}})["project"]["id"]
    user = identity.post("/users", {"user": {"name": "demo", "password": "secret", "domain_id": "default"}})["user"]["id"]
    identity.put(f"/projects/{demo}/users/{user}/roles/{roles['member']}")
    for kind, (name, port, path, _) in SERVICES.items():
        service = identity.post("/services", {"service": {"type": kind, "name": name}})["service"]["id"]
        for interface in ("public", "internal"):
            where = port + 10000 * (interface == "internal")
            identity.post("/endpoints", {"endpoint": {"service_id": service, "interface": interface, "region_id": "RegionOne",
                                                      "url": f"{URL}:{where}{path}"}})


def fill_images():
    image = Cloud().image
    for name, file, form in (("guest", "guest.qcow2", "qcow2"), ("guest-raw", "guest.raw", "raw")):
        upload(image, name, form, open(f"{ROOT}/guest/{file}", "rb"))
    # A server that is rescued with it keeps its disks where they are.
    upload(image, "medic", "qcow2", open(f"{ROOT}/guest/guest.qcow2", "rb"), hw_rescue_device="disk", hw_rescue_bus="virtio")
    # What says it is QCOW2 and isn't: a header, and nothing that it promises.
    upload(image, "broken", "qcow2", b"QFI\xfb\0\0\0\3" + bytes(1000))
    # A machine without PCI, which libvirt can't define with the devices there are: a build fails late, and might do better
    # elsewhere.
    upload(image, "unstartable", "qcow2", open(f"{ROOT}/guest/guest.qcow2", "rb"), hw_machine_type="isapc")


def upload(image, name, disk_format, data, **properties):
    made = image.post("/v2/images", {"name": name, "disk_format": disk_format, "container_format": "bare",
                                     "visibility": "public", **properties})["id"]
    image.request("PUT", f"/v2/images/{made}/file", data=data, headers={"Content-Type": "application/octet-stream"})
    return made


def fill_network():
    network = Cloud().network
    net = network.post("/v2.0/networks", {"network": {"name": "net", "shared": True}})["network"]["id"]
    network.post("/v2.0/subnets", {"subnet": {"name": "net", "network_id": net, "cidr": "10.77.0.0/24", "ip_version": 4,
                                              "gateway_ip": "10.77.0.1"}})


def fill_volumes():
    """The volume type that etc/cinder.conf names as the default."""
    Cloud().volume.post("/types", {"volume_type": {"name": "nfs", "extra_specs": {"volume_backend_name": "nfs"}}})


def fill_flavors():
    compute = Cloud().compute
    for name, memory, vcpus, disk in (("tiny", 128, 1, 1), ("small", 192, 1, 2), ("duo", 192, 2, 2), ("diskless", 128, 1, 0)):
        compute.post("/flavors", {"flavor": {"id": name, "name": name, "ram": memory, "vcpus": vcpus, "disk": disk}})
    project = Cloud().session.get_project_id()
    compute.put(f"/os-quota-sets/{project}", {"quota_set": {"instances": 100, "cores": 200, "ram": 200000}})

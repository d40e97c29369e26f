"""The control plane's services: their databases, the cell, the catalog, and the processes."""
import os
import urllib.error
import urllib.request

from plane import BIN, CONTROLLER, ETC, ROOT, STATE, run

NOVA = ("--config-file", f"{ETC}/nova.conf")
CINDER = ("--config-file", f"{ETC}/cinder.conf")

# service -> port, module, threads, where its configuration is
APIS = {
    "keystone": (5000, "keystone.wsgi.api:application", 8,
                 {"OS_KEYSTONE_CONFIG_DIR": ETC, "OS_KEYSTONE_CONFIG_FILES": "keystone.conf"}),
    "glance": (9292, "glance.wsgi.api:application", 6,
               {"OS_GLANCE_CONFIG_DIR": ETC, "OS_GLANCE_CONFIG_FILES": "glance-api.conf"}),
    "placement": (8778, "placement.wsgi.api:application", 4, {"OS_PLACEMENT_CONFIG_DIR": ETC}),
    "neutron": (9696, "neutron.wsgi.api:application", 6,
                {"OS_NEUTRON_CONFIG_DIR": ETC, "OS_NEUTRON_CONFIG_FILES": "neutron.conf"}),
    "nova-api": (8774, "nova.wsgi.osapi_compute:application", 8,
                 {"OS_NOVA_CONFIG_DIR": ETC, "OS_NOVA_CONFIG_FILES": f"{ROOT}/venv/etc/nova/api-paste.ini;nova.conf"}),
    "cinder": (8776, "cinder.wsgi.api:application", 4, {}),
}

# service -> command. The last ones are started by the scenarios that need them.
WORKERS = {
    "nova-scheduler": ("nova-scheduler", *NOVA),
    "nova-conductor": ("nova-conductor", *NOVA),
    "nova-novncproxy": ("nova-novncproxy", *NOVA, "--web", f"{STATE}/novnc"),
    "neutron-maintenance": ("neutron-ovn-maintenance-worker", "--config-file", f"{ETC}/neutron.conf"),
    "nova-serialproxy": ("nova-serialproxy", *NOVA),
    "cinder-scheduler": ("cinder-scheduler", *CINDER),
    "cinder-volume": ("cinder-volume", *CINDER),
}


def start_api(daemons, name):
    port, module, threads, env = APIS[name]
    # cinder reads its configuration's place from the arguments.
    daemons.start(name, f"{BIN}/uwsgi", "--ini", f"{ETC}/uwsgi.ini", "--http-socket", f"{CONTROLLER}:{port}",
                  "--module", module, "--threads", str(threads), "--pyargv", " ".join(CINDER) if name == "cinder" else "", env=env)


def wait_api(daemons, name):
    """Waits for an answer, whatever it is: uwsgi accepts connections before the service is loaded."""
    def answers():
        try:
            urllib.request.urlopen(f"http://{CONTROLLER}:{APIS[name][0]}/", timeout=60).close()
        except urllib.error.HTTPError:
            pass
        return True
    daemons.wait(name, 90, answers)


def start_worker(daemons, name):
    command, *arguments = WORKERS[name]
    daemons.start(name, f"{BIN}/{command}", *arguments)


def _manage(program, config, *steps):
    """Runs the steps of a service's management command one after the other."""
    for step in steps:
        run(f"{BIN}/{program}", "--config-file", f"{ETC}/{config}", *step)


def keystone(daemons):
    """Keys, database, the administrator and the API."""
    for keys in ("fernet", "credential"):
        os.makedirs(f"{STATE}/keystone/{keys}", mode=0o700)
    url = f"http://{CONTROLLER}"
    _manage("keystone-manage", "keystone.conf",
            ("fernet_setup", "--keystone-user", "root", "--keystone-group", "root"),
            ("credential_setup", "--keystone-user", "root", "--keystone-group", "root"),
            ("db_sync",),
            ("bootstrap", "--bootstrap-password", "secret", "--bootstrap-region-id", "RegionOne",
             "--bootstrap-public-url", f"{url}:5000/v3/", "--bootstrap-internal-url", f"{url}:15000/v3/",
             "--bootstrap-admin-url", f"{url}:5000/v3/"))
    start_api(daemons, "keystone")
    wait_api(daemons, "keystone")


def nova_cell():
    """The API's database and the cells' mappings. The cells' own databases are made beside it."""
    database = f"mysql+pymysql://root@{CONTROLLER}/nova_cell0?charset=utf8mb4"
    _manage("nova-manage", "nova.conf", ("api_db", "sync"),
            ("cell_v2", "map_cell0", "--database_connection", database), ("cell_v2", "create_cell", "--name", "cell1"))


def nova_cell0_database():
    with open(f"{STATE}/cell0.conf", "w") as file:
        file.write(f"[database]\nconnection = mysql+pymysql://root@{CONTROLLER}/nova_cell0?charset=utf8mb4\n")
    _manage("nova-manage", "nova.conf", ("--config-file", f"{STATE}/cell0.conf", "db", "sync", "--local_cell"))


def up(daemons, together, database, broker, ovn, fill_identity):
    """Starts everything, each part as soon as what it needs is there. Gives a future for each API, by name, and one for
    what keystone has to know."""
    for part in ("nova", "neutron", "cinder", "novnc"):
        os.makedirs(f"{STATE}/{part}", exist_ok=True)
    with open(f"{STATE}/novnc/vnc_lite.html", "w") as page:
        page.write("The tests speak to the proxy's websocket; nobody opens this page.\n")

    def sync(program, config, *step):
        return together.go(lambda: _manage(program, config, step), database)

    def api(name, *after):
        start = together.go(lambda: start_api(daemons, name), *after)
        return together.go(lambda: wait_api(daemons, name), start)

    def worker(name, *after):
        return together.go(lambda: start_worker(daemons, name), *after)

    # The longest chains first: they decide when everything is up.
    apis = {"keystone": together.go(lambda: keystone(daemons), database)}
    identity = together.go(fill_identity, apis["keystone"])
    cells = [together.go(nova_cell, database), sync("nova-manage", "nova.conf", "db", "sync", "--local_cell"),
             together.go(nova_cell0_database, database)]
    apis["neutron"] = api("neutron", sync("neutron-db-manage", "neutron.conf", "upgrade", "head"), ovn, broker)
    apis["glance"] = api("glance", sync("glance-manage", "glance-api.conf", "db_sync"))
    apis["placement"] = api("placement", sync("placement-manage", "placement.conf", "db", "sync"))
    apis["nova-api"] = api("nova-api", *cells, broker)
    # They ask for a token when they start, and end when they get none.
    for name in ("nova-conductor", "nova-scheduler"):
        worker(name, *cells, broker, identity)
    worker("nova-novncproxy", *cells)
    apis["cinder"] = api("cinder", sync("cinder-manage", "cinder.conf", "db", "sync"))
    return apis, identity

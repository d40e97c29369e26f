"""What the control plane stands on: a bridge, MariaDB, memcached, RabbitMQ, OVN's databases and northd."""
import os

from plane import CONTROLLER, ETC, ROOT, STATE, listens, run

OVN = f"{ROOT}/state/ovn"
OVN_ENV = {"OVN_RUNDIR": OVN, "OVS_RUNDIR": OVN, "OVN_DBDIR": OVN, "OVN_SYSCONFDIR": OVN}


def network():
    """The plane's own network: the controller's address is on a bridge that the hosts' interfaces join."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "plane", "type", "bridge")
    run("ip", "addr", "add", f"{CONTROLLER}/24", "dev", "plane")
    run("ip", "link", "set", "plane", "up")


def database(daemons):
    os.makedirs(f"{STATE}/mysql", exist_ok=True)
    if not os.path.isdir(f"{STATE}/mysql/mysql"):
        run("mariadb-install-db", f"--defaults-file={ETC}/my.cnf", "--user=root", "--skip-test-db")
    daemons.start("mariadb", "mariadbd", f"--defaults-file={ETC}/my.cnf")
    daemons.wait("mariadb", 60, lambda: listens(3306))


def memcached(daemons):
    daemons.start("memcached", "memcached", "-u", "root", "-l", CONTROLLER, "-m", "64")


def broker(daemons):
    """RabbitMQ; users, virtual hosts and the policy for unread notifications are in etc/rabbitmq.json."""
    home = f"{STATE}/rabbit"
    os.makedirs(f"{home}/log", exist_ok=True)
    with open(f"{home}/plugins", "w") as file:
        file.write("[].")
    daemons.start("rabbitmq", "/usr/lib/rabbitmq/bin/rabbitmq-server", env=rabbit_env())
    daemons.wait("rabbitmq", 60, lambda: listens(5672))


def rabbit_env():
    home = f"{STATE}/rabbit"
    return {
        "HOME": home, "RABBITMQ_NODENAME": "plane@localhost", "RABBITMQ_MNESIA_BASE": f"{home}/mnesia",
        "RABBITMQ_LOG_BASE": f"{home}/log", "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/plugins",
        "RABBITMQ_CONFIG_FILE": f"{ETC}/rabbitmq", "RABBITMQ_CONF_ENV_FILE": f"{home}/none",
        "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/none", "RABBITMQ_GENERATED_CONFIG_DIR": f"{home}/generated",
        "RABBITMQ_PID_FILE": f"{home}/pid",
        # Idle schedulers must not spin: the services need the processors.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
    }


def rabbitmqctl(*arguments):
    return run("/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", "-n", "plane@localhost", *arguments,
               env={**os.environ, **rabbit_env()}, cwd="/")


def ovn(daemons):
    os.makedirs(OVN, exist_ok=True)
    for name, port in (("nb", 6641), ("sb", 6642)):
        run("ovsdb-tool", "create", f"{OVN}/ovn{name}.db", f"/usr/share/ovn/ovn-{name}.ovsschema")
        daemons.start(f"ovn-{name}", "ovsdb-server", f"--remote=punix:{OVN}/ovn{name}.sock",
                      f"--remote=ptcp:{port}:{CONTROLLER}", f"--unixctl={OVN}/ovn{name}.ctl", f"{OVN}/ovn{name}.db",
                      env=OVN_ENV)
        daemons.wait(f"ovn-{name}", 20, lambda: listens(port))
        run(f"ovn-{name}ctl", f"--db=unix:{OVN}/ovn{name}.sock", "init")
    daemons.start("ovn-northd", "ovn-northd", f"--ovnnb-db=unix:{OVN}/ovnnb.sock", f"--ovnsb-db=unix:{OVN}/ovnsb.sock",
                  f"--unixctl={OVN}/northd.ctl", env=OVN_ENV)

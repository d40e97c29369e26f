"""Brings the plane up, runs the scenarios, compares or records. Started by tests/openstack/run; see there."""
import argparse
import os
import signal
import subprocess
import sys
import time
import traceback

SCENARIO_SECONDS = 300
"""More than twice what the longest scenario needs."""


class TooSlow(BaseException):
    """A scenario takes longer than it may; not an Exception, for that is what scenarios catch."""


def too_slow(*_):
    raise TooSlow(f"longer than {SCENARIO_SECONDS} s")


def bring_up(daemons):
    """Everything but an agent, as much at once as depends on nothing else."""
    import cloud
    import control
    import infra
    from host import Host
    from plane import Failed, Together, log_tail

    infra.network()
    hosts = {name: Host(daemons, name) for name in ("compute1", "compute2")}
    with Together() as together:
        database = together.go(lambda: infra.database(daemons))
        broker = together.go(lambda: infra.broker(daemons))
        ovn = together.go(lambda: infra.ovn(daemons))
        together.go(lambda: infra.memcached(daemons))
        apis, identity = control.up(daemons, together, database, broker, ovn, cloud.fill_identity)
        together.go(cloud.fill_images, identity, apis["glance"])
        together.go(cloud.fill_network, identity, apis["neutron"])
        together.go(cloud.fill_flavors, identity, apis["nova-api"])
        together.go(cloud.fill_volumes, identity, apis["cinder"])
        for host in hosts.values():
            together.go(host.up, ovn)
    for worker in ("nova-conductor", "nova-scheduler", "neutron", "cinder"):
        if not daemons.runs(worker):
            raise Failed(f"{worker} ended:\n{log_tail(worker)}")
    return hosts


def run_scenarios(world, names, recording, until):
    """Runs them one after the other, and begins none after `until`; the names of those that failed and of those left out."""
    import expected
    from look import left_behind
    from plane import LOG
    from world import SCENARIOS

    failed = []
    signal.signal(signal.SIGALRM, too_slow)
    for number, name in enumerate(names):
        began = time.monotonic()
        if began > until:
            return failed, names[number:]
        signal.alarm(SCENARIO_SECONDS)
        world.begin()
        before = left_behind(world)
        try:
            world.agent.ensure(**SCENARIOS[name].agent)
            world.learn()
            SCENARIOS[name].run(world)
            heard = world.heard()
            wrong = world.wrong
            if recording:
                expected.record(name, world.steps, heard)
            else:
                wrong += expected.compare(name, world.steps, heard)
        except (Exception, TooSlow):
            wrong = traceback.format_exc().splitlines()
            signal.alarm(SCENARIO_SECONDS)
            for server in world.servers:
                server.keep_console(f"{LOG}/{name}-{server.id}.console")
        wrong += clear(world, before)
        signal.alarm(0)
        if wrong:
            failed.append(name)
        print(f"{'FAIL' if wrong else 'ok  '} {name} ({time.monotonic() - began:.0f} s)", flush=True)
        for line in wrong[:40]:
            print(f"     {line}")
        if wrong:
            with open(f"{LOG}/{name}.wrong", "w") as file:
                file.write("\n".join(wrong) + "\n")
            if len(wrong) > 40:
                print(f"     and {len(wrong) - 40} more: {LOG}/{name}.wrong")
    return failed, []


def clear(world, before):
    """Deletes the scenario's servers, and says what is left that wasn't there before."""
    from look import left_behind
    from plane import Failed, until
    world.proxy.heal()
    for server in world.servers:
        try:
            world.cloud.delete(server.id)
        except Failed:
            pass

    def left():
        found = {what: [one for one in ones if one not in before.get(what, [])] for what, ones in left_behind(world).items()}
        return [f"left behind: {what}: {ones}" for what, ones in found.items() if ones]

    try:
        until(15, "nothing to be left", lambda: not left(), 0.5)
    except Failed:
        return left()
    return []


def main():
    parser = argparse.ArgumentParser(prog="tests/openstack/run")
    parser.add_argument("--agent", choices=("hypernova", "nova-compute"), default="hypernova")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--shell", action="store_true")
    parser.add_argument("scenarios", nargs="*")
    options = parser.parse_args()

    from plane import Daemons
    import expected
    import scenarios  # noqa: F401
    from world import SCENARIOS, World
    asked = options.scenarios or list(SCENARIOS)
    names = [name for name, one in SCENARIOS.items() if name in asked or one.group in asked]
    unknown = set(asked) - set(SCENARIOS) - {one.group for one in SCENARIOS.values()}
    if unknown:
        print(f"no such scenario: {', '.join(unknown)}; --list names them", file=sys.stderr)
        return 2
    unrecorded = [] if options.scenarios or options.record or options.shell else [n for n in names if not expected.is_recorded(n)]
    if unrecorded:
        print(f"left out, as nothing is recorded for them yet: {' '.join(unrecorded)}", flush=True)
        names = [name for name in names if name not in unrecorded]
    began = time.monotonic()
    daemons = Daemons()
    hosts = bring_up(daemons)
    print(f"the control plane is up ({time.monotonic() - began:.0f} s)", flush=True)
    world = World(daemons, hosts, options.agent)
    if options.shell:
        return subprocess.run(["bash", "--norc", "-i"], env={**os.environ, "PS1": "plane# "}).returncode
    limit = os.environ.get("OPENSTACK_SECONDS")
    failed, left_out = run_scenarios(world, names, options.record, began + float(limit) if limit else float("inf"))
    if left_out:
        print(f"left out, for lack of time: {' '.join(left_out)}")
    passed = len(names) - len(failed) - len(left_out)
    print(f"{passed} passed, {len(failed)} failed ({time.monotonic() - began:.0f} s)", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

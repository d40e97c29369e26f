"""The payloads that nova itself makes of the instances in tests/fixtures, for tests/notify_golden.rs.

Usage: notifications.py > tests/golden/notifications.json, with nova 33.0.2 installed. Each case has
its input (context, instance, what happened) and what nova's notifiers were given, in order.
"""
import copy
import datetime
import json
import os
import sys

os.environ.setdefault('OS_NOVA_DISABLE_EVENTLET_PATCHING', '1')

from nova.compute import utils as compute_utils
from nova import conf
from nova import context as nova_context
from nova import exception
from nova.image import glance
from nova import notifications
from nova import objects
from nova.objects import base as objects_base
from nova import rpc

CONF = conf.CONF
HERE = os.path.dirname(os.path.abspath(__file__))
# Where the project lies is in no trace back.
TOP = os.path.dirname(os.path.dirname(HERE)) + os.sep
RPC = os.path.join(HERE, '..', 'fixtures', 'rpc')
HOST, IMAGES = 'compute1', 'http://10.66.0.1:9292'
SNAPSHOT = '93a15203-f3a0-4a0c-90ba-2fa6aad90db2'
CONTEXT = {
    'user_id': '2c54c6dfca9049f897e04257c950bf4c', 'project_id': '1636986d9ad64a04986c679176c6d90f',
    'request_id': 'req-3a61e2f7-2d7c-4f0c-8a0e-1f3f5f6a7b8c', 'roles': ['member'],
    'is_admin': False,
}
SENT = []


class Notifier:
    """Stands in for oslo.messaging's."""

    def __init__(self, publisher_id=None):
        self.publisher_id = publisher_id

    def prepare(self, publisher_id):
        return Notifier(publisher_id)

    def is_enabled(self):
        return True

    def info(self, context, event_type, payload):
        self._keep(context, 'INFO', event_type, payload)

    def error(self, context, event_type, payload):
        self._keep(context, 'ERROR', event_type, payload)

    debug = warn = critical = info

    def _keep(self, context, priority, event_type, payload):
        payload = rpc.JsonPayloadSerializer().serialize_entity(context, payload)
        SENT.append({
            'publisher_id': self.publisher_id, 'event_type': event_type, 'priority': priority,
            'is_admin': context.is_admin, 'roles': context.roles, 'payload': payload,
        })


def fixture(name):
    with open(os.path.join(RPC, name + '.json')) as file:
        return json.load(file)['args']['instance']


def changed(instance, **fields):
    instance = copy.deepcopy(instance)
    instance['nova_object.data'].update(fields)
    return instance


def make(class_, version, **data):
    return {'nova_object.name': class_, 'nova_object.namespace': 'nova',
            'nova_object.version': version, 'nova_object.data': data}


def rich():
    """An instance of which much is set that the recorded ones leave open."""
    keypair = make('KeyPair', '1.4', id=1, name='k', user_id='u', fingerprint='f',
                   public_key='ssh-rsa AAAA', type='ssh', created_at=None, updated_at=None,
                   deleted_at=None, deleted=False)
    tag = make('Tag', '1.1', resource_id='r', tag='blue')
    instance = fixture('build_and_run_instance')
    data = instance['nova_object.data']
    data['system_metadata'].update(locked_reason='audit', image_hw_disk_bus='scsi')
    flavor = data['flavor']['nova_object.data']
    flavor.update(extra_specs={'hw:cpu_policy': 'shared'}, description='d', ephemeral_gb=3, swap=64)
    network = [{
        'id': '0d2a2d7e-2c39-4b3a-8f50-3f1d0e0c9d10', 'address': 'fa:16:3e:00:00:01',
        'network': {'id': 'n', 'bridge': 'br-int', 'label': 'net', 'meta': {'mtu': 1442},
                    'subnets': [{
                        'cidr': '10.0.0.0/24', 'dns': [], 'routes': [], 'version': 4, 'meta': {},
                        'gateway': {'address': '10.0.0.1', 'type': 'gateway', 'version': 4,
                                    'meta': {}},
                        'ips': [{'address': '10.0.0.5', 'type': 'fixed', 'version': 4, 'meta': {},
                                 'floating_ips': [{'address': '192.0.2.7', 'type': 'floating',
                                                   'version': 4, 'meta': {}}]},
                                {'address': '10.0.0.6', 'type': 'fixed', 'version': 4, 'meta': {},
                                 'floating_ips': []}]}]},
        'type': 'ovs', 'details': {}, 'devname': 'tap0d2a2d7e-2c', 'ovs_interfaceid': 'o',
        'qbh_params': None, 'qbg_params': None, 'active': True, 'vnic_type': 'normal',
        'profile': {}, 'preserve_on_delete': False, 'delegate_create': True,
        'meta': {'dns_name': 'x'},
    }]
    cache = make('InstanceInfoCache', '1.5', instance_uuid=data['uuid'],
                 network_info=json.dumps(network), created_at=None, updated_at=None,
                 deleted_at=None, deleted=False)
    return changed(
        instance, info_cache=cache, progress=40, locked=True, metadata={'a': 'b'},
        auto_disk_config=True, access_ip_v4='192.0.2.1', access_ip_v6='2001:db8::1',
        key_name='k', keypairs=make('KeyPairList', '1.3', objects=[keypair]),
        tags=make('TagList', '1.1', objects=[tag]),
        trusted_certs=make('TrustedCerts', '1.0', ids=['c']), launched_at='2026-11-20T23:10:00Z',
        vm_state='active', task_state=None, power_state=1, host='compute1', node='compute1',
        os_type='linux', architecture='x86_64', display_description='words', cell_name='c1')


def volume():
    bdm = fixture_bdm()
    bdm['nova_object.data'].update(
        volume_id='6f0d4bd0-22d9-4ed0-94a5-000000000001', source_type='volume',
        destination_type='volume', device_name='/dev/vdb', boot_index=None, tag='data')
    return bdm


def fixture_bdm():
    with open(os.path.join(RPC, 'build_and_run_instance.json')) as file:
        mapping = json.load(file)['args']['block_device_mapping']
    return mapping['nova_object.data']['objects'][0]


def cases():
    build, active = fixture('build_and_run_instance'), fixture('suspend_instance')
    gone = fixture('terminate_instance')
    bdms = [fixture_bdm(), volume()]
    bare = changed(build, image_ref='', created_at=None, info_cache=None)
    yield 'create.start', build, {'bdms': [fixture_bdm()], 'image_name': 'tb-disk'}
    yield 'create.end', rich(), {'bdms': bdms}
    yield 'create.error', build, {'bdms': [], 'fault': {
        'class': 'DiskNotFound', 'message': 'No disk at /d', 'kwargs': {'location': '/d'}}}
    yield 'create.error', build, {'bdms': [], 'fault': {
        'class': 'ComputeResourcesUnavailable',
        'message': "Insufficient compute resources: it's \"full\"\n.", 'kwargs': {}}}
    yield 'create.error', bare, {'bdms': [], 'fault': {
        'class': 'libvirtError', 'message': 'operation failed: ' + 'ü' * 300}}
    for action in ('power_off', 'power_on', 'pause', 'unpause', 'suspend'):
        for phase in ('start', 'end'):
            yield f'{action}.{phase}', active, {}
    yield 'resume.start', active, {'bdms': []}
    yield 'reboot.start', changed(active, task_state='reboot_pending_hard'), {'bdms': bdms}
    yield 'reboot.error', active, {'bdms': [], 'fault': {
        'class': 'libvirtError', 'message': 'no'}}
    yield 'reboot.end', rich(), {'bdms': []}
    for phase in ('start', 'end'):
        yield f'snapshot.{phase}', active, {'snapshot_image_id': SNAPSHOT}
        yield f'trigger_crash_dump.{phase}', active, {}
    yield 'delete.start', gone, {'bdms': bdms}
    yield 'shutdown.start', gone, {'bdms': bdms}
    yield 'shutdown.end', changed(gone, info_cache=None), {'bdms': []}
    yield 'delete.end', changed(
        gone, vm_state='deleted', task_state=None, power_state=0, deleted=True,
        terminated_at='2026-11-20T23:14:00Z', deleted_at='2026-11-20T23:14:01Z'), {'bdms': []}
    yield 'exists', rich(), {'period': ['2026-10-01T00:00:00Z', '2026-11-01T00:00:00Z']}


class libvirtError(Exception):
    pass


def raised(fault):
    if fault is None:
        return None
    if fault['class'] == 'libvirtError':
        error = libvirtError(fault['message'])
    else:
        error = getattr(exception, fault['class'])(fault['message'], **fault['kwargs'])
    try:
        raise error
    except Exception as caught:
        return caught


def tell(context, instance, event, extra):
    legacy = rpc.get_notifier('compute', HOST)
    if event == 'exists':
        start, end = (datetime.datetime.fromisoformat(text[:-1]) for text in extra['period'])
        notifications.audit_period_bounds = lambda current: (start, end)
        return compute_utils.notify_usage_exists(legacy, context, instance, HOST)
    action, phase = event.split('.')
    error, bdms = raised(extra.get('fault')), extra.get('bdms')
    if bdms is not None:
        bdms = objects.BlockDeviceMappingList(objects=[
            objects_base.NovaObject.obj_from_primitive(bdm) for bdm in bdms])
    usage, network = {}, None
    if event == 'create.start':
        usage = {'image_name': extra['image_name']}
    if event == 'create.end':
        usage, network = {'message': 'Success'}, instance.get_network_info()
    if action not in ('create', 'delete', 'power_off', 'power_on', 'trigger_crash_dump'):
        context = context.elevated()
    compute_utils.notify_about_instance_usage(
        legacy, context, instance, event, network_info=network, extra_usage_info=usage,
        fault=error)
    if action == 'create':
        compute_utils.notify_about_instance_create(
            context, instance, HOST, phase=phase, exception=error, bdms=bdms)
    elif action == 'snapshot':
        compute_utils.notify_about_instance_snapshot(
            context, instance, HOST, phase=phase, snapshot_image_id=extra['snapshot_image_id'])
    else:
        compute_utils.notify_about_instance_action(
            context, instance, HOST, action=action, phase=phase, exception=error, bdms=bdms)


def main():
    objects.register_all()
    CONF([], project='nova', default_config_files=[], default_config_dirs=[])
    CONF.set_override('host', HOST)
    CONF.set_override('notification_format', 'both', group='notifications')
    rpc.LEGACY_NOTIFIER = rpc.NOTIFIER = Notifier()
    glance.API.generate_image_url = lambda self, image, context: f'{IMAGES}/images/{image}'
    told = []
    for event, primitive, extra in cases():
        SENT.clear()
        instance = objects_base.NovaObject.obj_from_primitive(copy.deepcopy(primitive))
        # What isn't set can't be loaded either: there is no conductor.
        context = nova_context.RequestContext(**CONTEXT)
        if 'shares' in instance.fields:
            instance.shares = None
        instance._context = context
        tell(context, instance, event, extra)
        told.append({'event': event, 'context': CONTEXT, 'instance': primitive, 'extra': extra,
                     'sent': copy.deepcopy(SENT)})
    # A case a line, so that a diff names it.
    lines = (json.dumps(case, sort_keys=True).replace(TOP, '') for case in told)
    print('[\n' + ',\n'.join(lines) + '\n]')


main()

"""Writes the golden files of this directory with nova's own code, for every case in cases.json.

    python3 -m venv v
    v/bin/pip install nova==33.0.2 ddt fixtures testtools oslotest requests-mock wsgi-intercept
    v/bin/python from_nova.py OUTPUT_DIRECTORY

nova runs with its own fake libvirt. The XML is nova's, apart from the time of its making. A case with
block device mappings (`bdms`) also gets the names that nova writes back to them, NAME.json; `named` says
that they are recorded already, as those of an instance that was built before.
"""
import json
import os
import sys
import unittest
from unittest import mock

from oslo_config import cfg

from nova import block_device
from nova.compute import manager
from nova import objects
from nova.network import model as network_model
from nova.tests.unit.virt.libvirt import test_driver
from nova.virt import driver as virt_driver
from nova.virt import fake
from nova.virt.libvirt import blockinfo
from nova.virt.libvirt import driver as libvirt_driver

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = sys.argv.pop() if len(sys.argv) > 1 else HERE
CONF = cfg.CONF
UUID = 'c096fd3f-811e-4ddd-8fca-f0fd75012396'
IMAGE = '9ac5fd6a-073c-423e-8bb6-9593064b906d'
PORTS = ['ffb38c30-19bd-43a5-ab53-0ee090d0e75%d' % i for i in range(10)]


def vif(index, kind):
    network = network_model.Network(
        id=IMAGE, bridge='br-int', label='net', mtu=1442, subnets=[network_model.Subnet(
            cidr='10.77.0.0/24', ips=[network_model.FixedIP(address='10.77.0.%d' % (12 + index))])])
    ovs_id = PORTS[index]
    common = dict(id=PORTS[index], address='fa:16:3e:32:64:%02x' % (0x38 + index), network=network,
                  devname='tap' + PORTS[index][:11], active=True)
    if kind == 'ethernet':
        return network_model.VIF(type='ovs', ovs_interfaceid=ovs_id, delegate_create=True,
                                 details={'port_filter': False}, **common)
    if kind == 'ovs':
        return network_model.VIF(type='ovs', ovs_interfaceid=ovs_id, delegate_create=False,
                                 details={'port_filter': False}, **common)
    if kind == 'bridge':
        return network_model.VIF(type='bridge', details={}, **common)
    return network_model.VIF(type='tap', details={}, **common)


def mappings(case):
    made = objects.BlockDeviceMappingList(objects=[])
    for number, asked in enumerate(case['bdms']):
        values = dict(
            id=number, uuid='00000000-0000-0000-0000-00000000000%d' % number, instance_uuid=UUID,
            source_type='blank', destination_type='local', guest_format=None, device_type='disk',
            disk_bus=None, boot_index=-1, device_name=None, delete_on_termination=True,
            snapshot_id=None, volume_id=None, volume_size=None, image_id=None, no_device=False,
            connection_info=None, tag=None, attachment_id=None, volume_type=None, encrypted=False,
            encryption_secret_uuid=None, encryption_format=None, encryption_options=None)
        made.objects.append(objects.BlockDeviceMapping(**dict(values, **asked)))
    return made


class Golden(test_driver.LibvirtConnTestCase):
    def runTest(self):
        with open(os.path.join(HERE, 'cases.json')) as cases:
            for case in json.load(cases):
                try:
                    xml = self.render(case)
                except Exception as error:
                    if os.environ.get('TRACE'):
                        raise
                    print('%s: %s: %s' % (case['name'], type(error).__name__, error))
                    continue
                with open(os.path.join(OUT, case['name'] + '.xml'), 'w') as out:
                    out.write(xml)
                if self.names:
                    with open(os.path.join(OUT, case['name'] + '.json'), 'w') as out:
                        json.dump(self.names, out, indent=1)
                        out.write('\n')

    def block_devices(self, case, driver, instance, meta):
        """What the compute manager makes of the mappings for the driver."""
        if 'bdms' not in case:
            return None
        bdms = mappings(case)
        if not case.get('named'):
            compute = manager.ComputeManager.__new__(manager.ComputeManager)
            compute.driver = driver
            with mock.patch.object(objects.BlockDeviceMapping, 'save'):
                compute._default_block_device_names(instance, meta, bdms)
            keys = ('device_name', 'disk_bus', 'device_type')
            self.names = {'root_device_name': instance.root_device_name,
                          'bdms': [{key: getattr(bdm, key) for key in keys} for bdm in bdms]}
        return virt_driver.get_block_device_info(instance, bdms)

    def render(self, case):
        self.names = None
        options = dict(virt_type='kvm', num_pcie_ports=0, rx_queue_size=None, cpu_mode=None,
                       cpu_models=[], cpu_model_extra_flags=[], disk_prefix=None,
                       disk_cachemodes=[], hw_disk_discard=None, mem_stats_period_seconds=10,
                       tb_cache_size=None, sysinfo_serial='unique', images_type='default')
        options.update(case.get('options', {}))
        self.flags(instances_path='/var/lib/nova/instances')
        self.flags(enabled=options.pop('vnc', True), server_listen='10.66.0.11', group='vnc')
        self.flags(enabled=options.pop('spice', False), agent_enabled=True,
                   server_listen='127.0.0.1', group='spice')
        self.flags(enabled=options.pop('serial_console', False), group='serial_console')
        self.flags(config_drive_format=options.pop('config_drive_format', 'iso9660'))
        self.flags(preallocate_images=options.pop('preallocate_images', 'none'))
        self.flags(max_disk_devices_to_attach=options.pop('max_disk_devices', -1), group='compute')
        self.flags(pointer_model=options.pop('pointer_model', 'usbtablet'))
        self.flags(group='libvirt', **options)
        extra = case.get('flavor', {})
        flavor = objects.Flavor(id=1, name='tb.tiny', flavorid='tb.tiny', memory_mb=128, vcpus=1,
                                root_gb=1, ephemeral_gb=0, swap=0, extra_specs={}, rxtx_factor=1.0)
        for key, value in extra.items():
            setattr(flavor, key, value)
        image = dict(case.get('image', {}))
        image_id = image.pop('id', IMAGE)
        meta = objects.ImageMeta.from_dict({
            'container_format': 'bare', 'min_disk': 1, 'min_ram': 0,
            'disk_format': image.get('disk_format', 'qcow2'),
            'properties': image.get('properties', {})})
        system_metadata = {'owner_user_name': 'admin', 'owner_project_name': 'admin',
                           'image_container_format': 'bare', 'image_min_disk': 1,
                           'image_min_ram': 0,
                           'image_disk_format': image.get('disk_format', 'qcow2')}
        for key, value in image.get('properties', {}).items():
            system_metadata['image_' + key] = value
        instance = objects.Instance(**dict(
            self.test_instance, id=2, uuid=UUID, flavor=flavor,
            display_name=case.get('display_name', 'many-1'), image_ref=image_id,
            user_id='2c54c6dfca9049f897e04257c950bf4c',
            project_id='1636986d9ad64a04986c679176c6d90f', system_metadata=system_metadata,
            config_drive='True' if case.get('config_drive') else '',
            os_type=case.get('os_type'), ephemeral_gb=flavor.ephemeral_gb,
            root_device_name=case.get('root_device_name'),
            default_ephemeral_device=None, default_swap_device=None,
            kernel_id='kernel' if case.get('kernel') else '',
            ramdisk_id='ramdisk' if case.get('kernel') else ''))
        vifs = network_model.NetworkInfo(
            [vif(i, kind) for i, kind in enumerate(case.get('vifs', ['ethernet']))])
        if image_id:
            meta.id = image_id
        with mock.patch('time.time', return_value=1795215966), \
                mock.patch('nova.privsep.utils.supports_direct_io', return_value=True), \
                mock.patch('nova.console.serial.acquire_port', side_effect=[10000, 10001]), \
                mock.patch('nova.virt.libvirt.host.Host.is_cpu_control_policy_capable',
                           return_value=True), \
                mock.patch('nova.virt.libvirt.driver.LibvirtDriver._get_cpu_model_mapping',
                           side_effect=lambda model: model), \
                mock.patch('nova.virt.libvirt.host.Host.supports_uefi',
                           new_callable=mock.PropertyMock, return_value=True):
            driver = libvirt_driver.LibvirtDriver(fake.FakeVirtAPI(), True)
            devices = self.block_devices(case, driver, instance, meta)
            disk_info = blockinfo.get_disk_info(CONF.libvirt.virt_type, instance, meta, devices)
            guest = driver._get_guest_config(instance, vifs, meta, disk_info,
                                             context=self.context, block_device_info=devices)
            if self.names:
                self.names['ec2'] = block_device.instance_block_mapping(
                    instance, mappings(dict(case, bdms=[
                        dict(asked, **{key: named[key] for key in named})
                        for asked, named in zip(case['bdms'], self.names['bdms'])])))
            return guest.to_xml()


if __name__ == '__main__':
    unittest.TextTestRunner().run(Golden('runTest'))

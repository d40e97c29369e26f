//! Instances' networks in nova mode, as configured.

use std::sync::Arc;

use crate::config::Config;
use crate::network::neutron::{InterfaceRecords, NeutronNetwork, NeutronOptions};
use crate::network::plug::Plugger;
use crate::network::plug::ovs::OvsOptions;
use crate::openstack::Api;

/// Neutron's ports, plugged on this host. `api` is Neutron's; `records` are the control plane's.
pub fn neutron(
    config: &Config,
    api: Arc<dyn Api>,
    records: Arc<dyn InterfaceRecords>,
) -> NeutronNetwork {
    let options = NeutronOptions {
        host: config.default_.host.clone(),
        allocate_retries: config.default_.network_allocate_retries,
        ovs_bridge: config.neutron.ovs_bridge.clone(),
        extension_sync_interval: config.neutron.extension_sync_interval,
        flat_injected: config.default_.flat_injected,
    };
    NeutronNetwork::new(api, records, plugger(config), options)
}

fn plugger(config: &Config) -> Plugger {
    let ovs = &config.os_vif_ovs;
    let options = OvsOptions {
        connection: ovs.ovsdb_connection.clone(),
        timeout: ovs.ovs_vsctl_timeout,
        isolate_vif: ovs.isolate_vif,
        per_port_bridge: ovs.per_port_bridge,
        default_qos_type: ovs.default_qos_type.as_str().to_owned(),
    };
    Plugger::new(options, ovs.network_device_mtu)
}

//! `[neutron]`: the network service.

use std::time::Duration;

use crate::config::keystoneauth::{Adapter, Auth, Http};
use crate::config::opt::{Opt, section};

section! {
    /// The network service.
    Neutron in "neutron":

    /// The service's type in the catalog.
    service_type: String = Opt::text().default("network");

    /// The Open vSwitch bridge of ports whose binding names none.
    ovs_bridge: String = Opt::text().default("br-int");

    /// How long what Neutron can do is taken to be as it was; 0: it is asked each time.
    extension_sync_interval: Duration = Opt::seconds(0).default("600");

    /// How often a request is repeated that didn't reach the service. connect_retries wins.
    http_retries: u32 = Opt::integer(0, 100).default("3");

    group adapter: Adapter = Adapter::options("neutron");
    group auth: Auth = Auth::options("neutron");
    group http: Http = Http::options("neutron");
}

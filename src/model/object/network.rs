//! Networks of a request, and the ports recorded for an instance. nova: objects/{network_request,
//! network_metadata,virtual_interface}.py. The network itself is described by [`crate::model::network`].

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::model::time::Timestamp;
use crate::{object_list, versioned_object};

versioned_object! {
    /// One NIC as the user asked for it. `network_id` is `auto` or `none` when nova is to choose, or
    /// to leave it.
    NetworkRequest "1.3" {
        network_id: Option<String>,
        address: Option<String>,
        port_id: Option<Uuid>,
        pci_request_id: Option<Uuid>,
        tag: Option<String>,
        arq_uuid: Option<Uuid>,
        device_profile: Option<String>,
    }
}

object_list! {
    /// Several NICs.
    NetworkRequestList "1.1" of NetworkRequest
}

versioned_object! {
    /// Physical networks, for NUMA affinity.
    NetworkMetadata "1.0" {
        physnets: BTreeSet<String>,
        tunneled: bool,
    }
}

versioned_object! {
    /// A NIC's row in nova's database. `address` is `<mac>/<port id>`, which keeps it unique.
    VirtualInterface "1.3" {
        id: i64,
        address: Option<String>,
        network_id: i64,
        instance_uuid: Uuid,
        uuid: Uuid,
        tag: Option<String>,
        created_at: Option<Timestamp>,
        updated_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        deleted: bool,
    }
}

object_list! {
    /// Several NICs.
    VirtualInterfaceList "1.0" of VirtualInterface
}

//! `[placement]`: the service that keeps inventories and allocations.

use crate::config::keystoneauth::{Adapter, Auth, Http};
use crate::config::opt::{Opt, section};

section! {
    /// The service that keeps inventories and allocations.
    Placement in "placement":

    /// The service's type in the catalog.
    service_type: String = Opt::text().default("placement");

    group adapter: Adapter = Adapter::options("placement");
    group auth: Auth = Auth::options("placement");
    group http: Http = Http::options("placement");
}

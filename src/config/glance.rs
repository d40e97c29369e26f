//! `[glance]`: the image service. It is always asked with the user's token, so there are no
//! credentials here.

use crate::config::keystoneauth::{Adapter, Http};
use crate::config::opt::{Opt, OptionSpec, section};

section! {
    /// The image service.
    Glance in "glance":

    /// The service's type in the catalog.
    service_type: String = Opt::text().default("image");

    /// Addresses of the service, instead of the catalog's: one is taken at random, and the next
    /// when it fails.
    api_servers: Vec<String> = Opt::list().default("");

    /// How often a request is repeated that failed; 0: never.
    num_retries: u32 = Opt::integer(0, 100).default("3");

    /// Whether only images with a good signature may be booted. The agent can't verify
    /// signatures: with true it refuses every image.
    verify_glance_signatures: bool = Opt::boolean().default("false");

    group adapter: Adapter = Adapter::options("glance");
    group http: Http = HTTP;
}

const HTTP: [OptionSpec; 5] = {
    let [mut cafile, mut certfile, mut keyfile, mut insecure, timeout] = Http::options("glance");
    cafile.opt = cafile.opt.formerly(&[("ssl", "ca_file")]);
    certfile.opt = certfile.opt.formerly(&[("ssl", "cert_file")]);
    keyfile.opt = keyfile.opt.formerly(&[("ssl", "key_file")]);
    insecure.opt = insecure.opt.also(&["api_insecure"]);
    [cafile, certfile, keyfile, insecure, timeout]
};

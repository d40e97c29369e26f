//! `[spice]`: graphical consoles by SPICE. nova: conf/spice.py

use crate::config::opt::{Opt, choices, section};

choices! {
    /// How images are compressed.
    ImageCompression:
    AutoGlz = "auto_glz",
    AutoLz = "auto_lz",
    Quic = "quic",
    Glz = "glz",
    Lz = "lz",
    Off = "off",
}

choices! {
    /// When something is compressed.
    Compression:
    Auto = "auto",
    Never = "never",
    Always = "always",
}

choices! {
    /// What is taken for a video stream.
    StreamingMode:
    Filter = "filter",
    All = "all",
    Off = "off",
}

section! {
    /// Graphical consoles by SPICE.
    Spice in "spice":

    /// Whether guests get one, beside or instead of `[vnc]`'s.
    enabled: bool = Opt::boolean().default("false");

    /// Whether guests get the channel of the SPICE agent.
    agent_enabled: bool = Opt::boolean().default("true");

    /// The address on this host that they listen on.
    server_listen: String = Opt::text().default("127.0.0.1");

    /// How images are compressed. Unset: the hypervisor's default.
    image_compression: Option<ImageCompression> = Opt::choice(ImageCompression::CHOICES);

    /// When images are compressed with loss. Unset: the hypervisor's default.
    jpeg_compression: Option<Compression> = Opt::choice(Compression::CHOICES);

    /// When images are compressed further for slow networks. Unset: the hypervisor's default.
    zlib_compression: Option<Compression> = Opt::choice(Compression::CHOICES);

    /// Whether sound is compressed. Unset: the hypervisor's default.
    playback_compression: Option<bool> = Opt::boolean();

    /// What is taken for a video stream. Unset: the hypervisor's default.
    streaming_mode: Option<StreamingMode> = Opt::choice(StreamingMode::CHOICES);

    /// Where users' browsers find nova-spicehtml5proxy.
    html5proxy_base_url: String = Opt::text().default("http://127.0.0.1:6082/spice_auto.html");

    /// Where users find the proxy for native SPICE clients.
    spice_direct_proxy_base_url: String = Opt::text().default("http://127.0.0.1:13002/nova");

    /// The address of this host's SPICE servers as the proxies reach it.
    server_proxyclient_address: String = Opt::text().default("127.0.0.1");

    /// Whether every channel must speak TLS.
    require_secure: bool = Opt::boolean().default("false");
}

//! The way to a console: its endpoint on this host, and the token with which a proxy lets its user
//! through. nova: compute/manager.py, get_vnc_console; objects/console_auth_token.py, authorize

use uuid::Uuid;

use super::query::QueryError;
use crate::hypervisor::ConsoleEndpoints;
use crate::model::context::RequestContext;
use crate::model::object::ConsoleAuthToken;
use crate::model::secret::Secret;
use crate::workflow::{Backends, ConsoleSettings};

/// What a console is served by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleKind {
    Vnc,
    Spice,
    Serial,
}

impl ConsoleKind {
    /// That of a console type; what nova doesn't know is VNC's.
    /// nova: compute/manager.py, validate_console_port
    pub fn of_type(console_type: &str) -> Self {
        match console_type {
            "spice-html5" | "spice-direct" => Self::Spice,
            "serial" => Self::Serial,
            _ => Self::Vnc,
        }
    }

    /// The URL scheme of the console itself, for where there is no proxy.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Vnc => "vnc",
            Self::Spice => "spice",
            Self::Serial => "tcp",
        }
    }

    fn enabled(self, settings: &ConsoleSettings) -> bool {
        match self {
            Self::Vnc => settings.vnc_enabled,
            Self::Spice => settings.spice_enabled,
            Self::Serial => settings.serial_enabled,
        }
    }

    /// Where users' browsers find the proxy of a console type; `None` for a type that isn't of this
    /// kind.
    fn proxy<'s>(self, settings: &'s ConsoleSettings, console_type: &str) -> Option<&'s str> {
        match (self, console_type) {
            (Self::Vnc, "novnc") => Some(&settings.novncproxy_base_url),
            (Self::Spice, "spice-html5") => Some(&settings.spice_html5_base_url),
            (Self::Spice, "spice-direct") => Some(&settings.spice_direct_base_url),
            (Self::Serial, "serial") => Some(&settings.serial_base_url),
            _ => None,
        }
    }
}

/// Where a console can be reached from its proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleEndpoint {
    pub host: String,
    pub port: u16,
    /// SPICE's, for what goes over TLS.
    pub tls_port: Option<u16>,
}

/// What the user gets: where the console is, and how to be let in.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsoleAccess {
    pub endpoint: ConsoleEndpoint,
    /// The proxy's token and the URL with it; `None` where there is no proxy.
    pub pass: Option<Pass>,
}

/// Who has it has the console.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass {
    pub token: Secret,
    pub url: Secret,
}

/// Opens an instance's console to its user.
///
/// # Errors
/// [`QueryError`], and the records' when the token can't be written.
pub async fn open(
    on: &Backends,
    context: &RequestContext,
    uuid: Uuid,
    kind: ConsoleKind,
    console_type: &str,
) -> Result<ConsoleAccess, QueryError> {
    let settings = &on.settings.console;
    if !kind.enabled(settings) {
        return Err(QueryError::ConsoleUnavailable(console_type.to_owned()));
    }
    let Some(base) = kind.proxy(settings, console_type) else {
        return Err(QueryError::ConsoleInvalid(console_type.to_owned()));
    };
    let endpoint = endpoint(on, uuid, kind, console_type).await?;
    authorize(on, context, uuid, console_type, base, endpoint).await
}

/// Whether `port` is still the console's: the proxy asks before it connects.
///
/// # Errors
/// [`QueryError`] when the guest has no such console.
pub async fn validate_port(
    on: &Backends,
    uuid: Uuid,
    port: &str,
    console_type: &str,
) -> Result<bool, QueryError> {
    let kind = ConsoleKind::of_type(console_type);
    if !kind.enabled(&on.settings.console) {
        return Err(QueryError::ConsoleUnavailable(console_type.to_owned()));
    }
    Ok(endpoint(on, uuid, kind, console_type).await?.port.to_string() == port)
}

/// Where the guest's console listens; of several serial ports the first.
async fn endpoint(
    on: &Backends,
    uuid: Uuid,
    kind: ConsoleKind,
    console_type: &str,
) -> Result<ConsoleEndpoint, QueryError> {
    let settings = &on.settings.console;
    let found = endpoints(on, uuid).await?;
    let endpoint = match kind {
        ConsoleKind::Vnc => found.vnc.map(|(_, port)| {
            let host = settings.vnc_proxyclient_address.clone();
            ConsoleEndpoint { host, port, tls_port: None }
        }),
        ConsoleKind::Spice => found.spice.map(|ports| {
            let host = settings.spice_proxyclient_address.clone();
            ConsoleEndpoint { host, port: ports.port, tls_port: ports.tls_port }
        }),
        ConsoleKind::Serial => found
            .serial
            .into_iter()
            .next()
            .map(|(host, port)| ConsoleEndpoint { host, port, tls_port: None }),
    };
    endpoint.ok_or_else(|| QueryError::ConsoleUnavailable(console_type.to_owned()))
}

async fn endpoints(on: &Backends, uuid: Uuid) -> Result<ConsoleEndpoints, QueryError> {
    let found = on.hypervisor.domain(uuid).await?.ok_or(QueryError::NoDomain(uuid))?;
    if found.id.is_none() {
        let power_state = found.power_state.name();
        return Err(QueryError::NotRunning { uuid, power_state });
    }
    Ok(on.hypervisor.console_endpoints(uuid).await?)
}

async fn authorize(
    on: &Backends,
    context: &RequestContext,
    uuid: Uuid,
    console_type: &str,
    base: &str,
    endpoint: ConsoleEndpoint,
) -> Result<ConsoleAccess, QueryError> {
    let mut token = ConsoleAuthToken::default();
    token.console_type.set(console_type.to_owned());
    token.host.set(endpoint.host.clone());
    token.port.set(i64::from(endpoint.port));
    if ConsoleKind::of_type(console_type) == ConsoleKind::Spice {
        token.tls_port.set(endpoint.tls_port.map(i64::from));
    }
    token.internal_access_path.set(None);
    token.instance_uuid.set(uuid);
    token.access_url_base.set(Some(base.to_owned()));
    let ttl = on.settings.console.token_ttl;
    on.records.authorize_console(context, &mut token, ttl).await?;
    let pass = match token.token.get() {
        None => None,
        Some(given) => {
            let url = token.access_url().map_err(crate::records::RecordsError::from)?;
            Some(Pass { token: given.clone(), url })
        }
    };
    Ok(ConsoleAccess { endpoint, pass })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::guest::SpiceServer;
    use crate::workflow::Settings;
    use crate::workflow::world::{MemoryJournal, UUID, World, spawn};

    /// A guest with VNC, as by default, and with SPICE.
    async fn with_both() -> Backends {
        let mut world = World::new();
        let mut settings = Settings::example();
        settings.console.spice_enabled = true;
        settings.console.spice_proxyclient_address = "10.0.0.2".to_owned();
        let listen = "127.0.0.1".to_owned();
        settings.guest.vnc_listen = Some(listen.clone());
        settings.guest.spice = Some(SpiceServer { listen, ..SpiceServer::default() });
        world.settings = settings;
        let mut record = world.record(spawn()).await;
        world.run(&mut record, &MemoryJournal::default()).await.unwrap();
        world.backends()
    }

    async fn opened(
        on: &Backends,
        kind: ConsoleKind,
        console_type: &str,
    ) -> Result<ConsoleEndpoint, QueryError> {
        let context = RequestContext::admin();
        open(on, &context, UUID, kind, console_type).await.map(|access| access.endpoint)
    }

    #[tokio::test]
    async fn each_kind_has_its_own_endpoint_and_types() {
        let on = with_both().await;
        let vnc = opened(&on, ConsoleKind::Vnc, "novnc").await.unwrap();
        assert_eq!((&*vnc.host, vnc.tls_port), ("127.0.0.1", None));
        for console_type in ["spice-html5", "spice-direct"] {
            let spice = opened(&on, ConsoleKind::Spice, console_type).await.unwrap();
            assert_eq!((&*spice.host, spice.port), ("10.0.0.2", vnc.port + 1));
            let port = spice.port.to_string();
            assert!(validate_port(&on, UUID, &port, console_type).await.unwrap());
            assert!(!validate_port(&on, UUID, &port, "novnc").await.unwrap());
        }
        for (kind, wrong) in [(ConsoleKind::Vnc, "spice-html5"), (ConsoleKind::Spice, "novnc")] {
            let error = opened(&on, kind, wrong).await.unwrap_err();
            assert!(matches!(error, QueryError::ConsoleInvalid(_)), "{error}");
        }
        let error = opened(&on, ConsoleKind::Serial, "serial").await.unwrap_err();
        assert!(matches!(error, QueryError::ConsoleUnavailable(_)), "{error}");
    }
}

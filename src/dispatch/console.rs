//! The way to a console: its endpoint on this host, and the token with which a proxy lets its user
//! through. nova: compute/manager.py, get_vnc_console; objects/console_auth_token.py, authorize

use uuid::Uuid;

use super::query::{self, ConsoleEndpoint, QueryError};
use crate::model::context::RequestContext;
use crate::model::object::ConsoleAuthToken;
use crate::model::secret::Secret;
use crate::workflow::Backends;

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

/// # Errors
/// [`QueryError`], and the records' when the token can't be written.
pub async fn open_vnc(
    on: &Backends,
    context: &RequestContext,
    uuid: Uuid,
    console_type: &str,
) -> Result<ConsoleAccess, QueryError> {
    let endpoint = query::vnc_console(on, uuid, console_type).await?;
    let base = &on.settings.console.novncproxy_base_url;
    authorize(on, context, uuid, console_type, base, endpoint).await
}

/// # Errors
/// As for [`open_vnc`].
pub async fn open_serial(
    on: &Backends,
    context: &RequestContext,
    uuid: Uuid,
    console_type: &str,
) -> Result<ConsoleAccess, QueryError> {
    let endpoint = query::serial_console(on, uuid, console_type).await?;
    let base = &on.settings.console.serial_base_url;
    authorize(on, context, uuid, console_type, base, endpoint).await
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

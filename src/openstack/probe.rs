//! Whether the control plane can be reached as it is configured, for `hypernova check`.

use std::sync::Arc;

use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::session::{Service, Session};
use super::{Api, ApiError, ApiRequest, Identity};

/// What came of asking one service.
#[derive(Debug)]
pub struct Probed {
    /// `keystone`, or the service's name.
    pub subject: &'static str,
    pub result: Result<String, ProbeError>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Only what comes with a user's token can be asked of it.
    #[error("[{0}] has no credentials for the agent itself")]
    NoCredentials(&'static str),
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Session {
    /// Asks Keystone for each token that the agent would use, and each service for its root.
    /// Nothing is changed.
    pub async fn probe(&self) -> Vec<Probed> {
        let endpoints = Service::ALL.map(|service| self.endpoint(service));
        let mut probed: Vec<Probed> = Vec::new();
        for source in self.sources() {
            let result = match source.token().await {
                Ok(token) => {
                    let minutes = token.usable_for(Instant::now()).as_secs() / 60;
                    Ok(format!("{} gives tokens for {minutes} minutes", source.address()))
                }
                Err(error) => Err(error.into()),
            };
            probed.push(Probed { subject: "keystone", result });
        }
        let asked = endpoints.map(|endpoint| async move {
            let (subject, result) = (endpoint.service, probe(&endpoint).await);
            Probed { subject, result }
        });
        probed.extend(futures_util::future::join_all(asked).await);
        probed
    }
}

async fn probe(endpoint: &Arc<Endpoint>) -> Result<String, ProbeError> {
    if endpoint.identities.own.is_none() {
        return Err(ProbeError::NoCredentials(endpoint.identities.section));
    }
    let address = endpoint.find().await?;
    // Any answer will do: a root says 200, 300, or 404.
    let answer = endpoint.send(ApiRequest::get("", Identity::Service)).await?;
    match answer.status {
        500..=599 => {
            let message = format!("{address}: status {}", answer.status);
            Err(ApiError::Unreachable { service: endpoint.service, message }.into())
        }
        _ => Ok(format!("{address} answers")),
    }
}

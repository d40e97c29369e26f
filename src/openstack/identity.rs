//! On whose behalf a request goes out, with which tokens. nova: service_auth.py; network/neutron.py,
//! `_get_auth_plugin`; context.py, `_ContextAuthPlugin`.

use std::sync::Arc;

use reqwest::header::{HeaderMap, InvalidHeaderValue};
use serde_json::Value;

use super::catalog::{Catalog, Lookup};
use super::keystone::TokenSource;
use super::token::Token;
use super::transport::secret_header;
use super::{ApiError, Identity};
use crate::model::context::RequestContext;
use crate::model::secret::Secret;

/// Who may ask one service.
pub struct Identities {
    /// For messages: where the agent's own credentials would stand.
    pub section: &'static str,
    /// Of the agent itself.
    pub own: Option<Arc<TokenSource>>,
    /// For `X-Service-Token`, beside whichever token is sent.
    pub service_user: Option<Arc<TokenSource>>,
}

/// Who sends one request.
pub struct Sender {
    token: Secret,
    service_token: Option<Secret>,
    project_id: Option<String>,
    user_id: Option<String>,
    catalog: Known,
    /// Our own tokens among those sent.
    own: Vec<(Arc<TokenSource>, Arc<Token>)>,
}

/// Where a sender's catalog is.
enum Known {
    InToken(Arc<Token>),
    InContext(Catalog),
}

impl Identities {
    /// The tokens for a request as `identity`. An admin's request without a token, such as a
    /// periodic task's, is the agent's own.
    ///
    /// # Errors
    /// `Unauthorized` where there is no token to be had, `Unreachable` and `Garbled` of Keystone.
    pub async fn sender(
        &self,
        service: &'static str,
        identity: Identity<'_>,
    ) -> Result<Sender, ApiError> {
        let with_token = |context: &&RequestContext| {
            context.auth_token.as_ref().is_some_and(|token| !token.expose().is_empty())
        };
        let mut sender = match identity {
            Identity::User(context) if with_token(&context) => self.user(context).await?,
            Identity::User(context) if !context.is_admin => {
                let message = "the request came without a token".to_owned();
                return Err(ApiError::Unauthorized { service, message });
            }
            Identity::User(_) | Identity::Service => self.agent(service).await?,
        };
        if let Some(source) = &self.service_user {
            let token = source.token().await?;
            sender.service_token = Some(token.id.clone());
            sender.own.push((source.clone(), token));
        }
        Ok(sender)
    }

    async fn agent(&self, service: &'static str) -> Result<Sender, ApiError> {
        let Some(source) = &self.own else {
            let message = format!("[{}] auth_type is not set", self.section);
            return Err(ApiError::Unauthorized { service, message });
        };
        let token = source.token().await?;
        Ok(Sender {
            token: token.id.clone(),
            service_token: None,
            project_id: token.project_id.clone(),
            user_id: token.user_id.clone(),
            catalog: Known::InToken(token.clone()),
            own: vec![(source.clone(), token)],
        })
    }

    /// The user, by the token that came with the message. Where the message has no catalog, ours
    /// has to do.
    async fn user(&self, context: &RequestContext) -> Result<Sender, ApiError> {
        let catalog = Catalog::parse(context.rest.get("service_catalog").unwrap_or(&Value::Null));
        let catalog = match &self.own {
            Some(source) if catalog.is_empty() => Known::InToken(source.token().await?),
            _ => Known::InContext(catalog),
        };
        Ok(Sender {
            token: context.auth_token.clone().unwrap_or_else(|| Secret::new("")),
            service_token: None,
            project_id: context.project_id.clone(),
            user_id: context.user_id.clone(),
            catalog,
            own: Vec::new(),
        })
    }
}

impl Sender {
    /// # Errors
    /// A token that can't be a header.
    pub fn sign(&self, headers: &mut HeaderMap) -> Result<(), InvalidHeaderValue> {
        secret_header(headers, "x-auth-token", self.token.expose())?;
        match &self.service_token {
            Some(token) => secret_header(headers, "x-service-token", token.expose()),
            None => Ok(()),
        }
    }

    pub fn find(&self, lookup: &Lookup) -> Option<String> {
        let catalog = match &self.catalog {
            Known::InToken(token) => &token.catalog,
            Known::InContext(catalog) => catalog,
        };
        catalog.find(lookup).map(str::to_owned)
    }

    /// Puts the sender's ids into an address.
    pub fn fill_in(&self, address: &str) -> String {
        let put = |address: String, name: &str, value: &Option<String>| match value {
            // An id that could lead elsewhere is none.
            Some(id) if id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
                address.replace(name, id)
            }
            _ => address,
        };
        let address = put(address.to_owned(), "%(project_id)s", &self.project_id);
        let address = put(address, "%(tenant_id)s", &self.project_id);
        put(address, "%(user_id)s", &self.user_id)
    }

    /// Forgets the tokens of ours that a service didn't take; whether there were any, so that asking
    /// again may help.
    pub fn forget_own_tokens(&self) -> bool {
        for (source, token) in &self.own {
            source.forget(token);
        }
        !self.own.is_empty()
    }
}

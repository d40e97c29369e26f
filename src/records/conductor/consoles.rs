//! Tokens that let a user's browser through the console proxies.
//! nova: objects/console_auth_token.py

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::{Conductor, ConductorError, Repeat};
use crate::model::context::RequestContext;
use crate::model::object::{ConsoleAuthToken, VersionedObject};

impl Conductor {
    /// Makes the token valid for so long, and fills it in: [`ConsoleAuthToken::access_url`] is
    /// known from then on. An answer that is lost leaves a token that nobody knows, until it
    /// expires.
    pub async fn authorize_console(
        &self,
        context: &RequestContext,
        token: &mut ConsoleAuthToken,
        ttl: Duration,
    ) -> Result<(), ConductorError> {
        let primitive = token.to_primitive();
        let kwargs = json!({"ttl": ttl.as_secs()});
        self.object_action(context, token, primitive, "authorize", kwargs, Repeat::Harmless)
            .await?;
        token.reset_changes();
        Ok(())
    }

    /// Makes all tokens of an instance invalid: it is deleted, or has moved.
    pub async fn forget_consoles(
        &self,
        context: &RequestContext,
        instance: Uuid,
    ) -> Result<(), ConductorError> {
        let method = "clean_console_auths_for_instance";
        self.clean_consoles(context, method, json!([instance.to_string()])).await
    }

    /// Removes this host's tokens that have expired.
    pub async fn forget_expired_consoles(
        &self,
        context: &RequestContext,
        host: &str,
    ) -> Result<(), ConductorError> {
        self.clean_consoles(context, "clean_expired_console_auths_for_host", json!([host])).await
    }

    async fn clean_consoles(
        &self,
        context: &RequestContext,
        method: &str,
        args: serde_json::Value,
    ) -> Result<(), ConductorError> {
        let cleaned = self.class_action::<ConsoleAuthToken>(
            context,
            method,
            args,
            json!({}),
            Repeat::Harmless,
        );
        cleaned.await.map(drop)
    }
}

//! What this Neutron can do: its extensions, asked anew now and then.
//! nova: network/neutron.py, _refresh_neutron_extensions_cache

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::client::{As, CallError, Client};
use super::types::Extension;

#[derive(Debug)]
pub(super) struct Extensions {
    /// `[neutron] extension_sync_interval`; zero: asked each time.
    every: Duration,
    known: Mutex<Option<(Instant, HashSet<String>)>>,
}

impl Extensions {
    pub fn new(every: Duration) -> Self {
        Self { every, known: Mutex::default() }
    }

    /// Whether Neutron has the extension of this alias. Callers at one time ask once.
    pub async fn has(&self, client: Client<'_>, alias: &str) -> Result<bool, CallError> {
        let mut known = self.known.lock().await;
        if let Some((since, aliases)) = known.as_ref()
            && since.elapsed() < self.every
        {
            return Ok(aliases.contains(alias));
        }
        let found: Vec<Extension> = client.list(As::Admin, "extensions", &[]).await?;
        let aliases: HashSet<_> = found.into_iter().map(|extension| extension.alias).collect();
        let has = aliases.contains(alias);
        *known = Some((Instant::now(), aliases));
        Ok(has)
    }
}

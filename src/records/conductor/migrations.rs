//! Moves of instances, as this host has to know of them. nova: objects/migration.py

use serde_json::{Map, Value, json};

use super::{Conductor, ConductorError};
use crate::model::context::RequestContext;
use crate::model::object::{Migration, MigrationList, MigrationType};

/// Which migrations are wanted: those that match everything given here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MigrationFilter<'a> {
    /// The host that the instance leaves.
    pub source_compute: Option<&'a str>,
    /// The host that it comes from or goes to.
    pub host: Option<&'a str>,
    pub kind: Option<MigrationType>,
    /// One of these; empty: any.
    pub statuses: &'a [&'a str],
}

impl MigrationFilter<'_> {
    fn to_wire(&self) -> Value {
        let mut filters = Map::new();
        if let Some(source) = self.source_compute {
            filters.insert("source_compute".to_owned(), json!(source));
        }
        if let Some(host) = self.host {
            filters.insert("host".to_owned(), json!(host));
        }
        if !self.statuses.is_empty() {
            filters.insert("status".to_owned(), json!(self.statuses));
        }
        if let Some(kind) = self.kind {
            filters.insert("migration_type".to_owned(), json!(kind.as_str()));
        }
        Value::Object(filters)
    }
}

impl Conductor {
    /// nova: MigrationList.get_by_filters
    pub async fn migrations(
        &self,
        context: &RequestContext,
        filter: &MigrationFilter<'_>,
    ) -> Result<Vec<Migration>, ConductorError> {
        self.migration_list(context, "get_by_filters", json!([filter.to_wire()])).await
    }

    /// What still moves to or from this node, and what failed: it may have claims here.
    pub async fn migrations_in_progress_and_error(
        &self,
        context: &RequestContext,
        host: &str,
        node: &str,
    ) -> Result<Vec<Migration>, ConductorError> {
        let method = "get_in_progress_and_error";
        self.migration_list(context, method, json!([host, node])).await
    }

    /// Resizes to this host that their users haven't confirmed for so many seconds.
    pub async fn migrations_to_confirm(
        &self,
        context: &RequestContext,
        window_seconds: u64,
        host: &str,
    ) -> Result<Vec<Migration>, ConductorError> {
        let method = "get_unconfirmed_by_dest_compute";
        self.migration_list(context, method, json!([window_seconds, host])).await
    }

    /// Saves what has changed, if anything.
    pub async fn save_migration(
        &self,
        context: &RequestContext,
        migration: &mut Migration,
    ) -> Result<(), ConductorError> {
        self.save_object(context, migration).await
    }

    async fn migration_list(
        &self,
        context: &RequestContext,
        method: &str,
        args: Value,
    ) -> Result<Vec<Migration>, ConductorError> {
        let found: MigrationList =
            self.fetch::<MigrationList, _>(context, method, args, json!({})).await?;
        Ok(found.into_items())
    }
}

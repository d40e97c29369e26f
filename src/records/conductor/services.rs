//! Service records: this agent's own, and what the others' say. nova: objects/service.py

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::error::absent;
use super::{Conductor, ConductorError, ConductorOptions, Repeat};
use crate::model::context::RequestContext;
use crate::model::object::{FieldType, Service, VersionedObject};

impl Conductor {
    /// The service of this name on a host; `None` when there is none. `binary`: `nova-compute`.
    pub async fn service(
        &self,
        context: &RequestContext,
        host: &str,
        binary: &str,
    ) -> Result<Option<Service>, ConductorError> {
        let (method, args) = ("get_by_host_and_binary", json!([host, binary]));
        let found =
            self.class_action::<Service>(context, method, args, json!({}), Repeat::Harmless);
        self.nullable("Service.get_by_host_and_binary", found.await?)
    }

    /// The nova-compute service of a host; `None` when there is none.
    pub async fn service_of(
        &self,
        context: &RequestContext,
        host: &str,
    ) -> Result<Option<Service>, ConductorError> {
        let found =
            self.fetch::<Service, _>(context, "get_by_compute_host", json!([host]), json!({}));
        absent(found.await, &["ComputeHostNotFound"])
    }

    /// Creates the service's record, and fills in what the database has added.
    ///
    /// # Errors
    /// `ServiceBinaryExists` or `ServiceTopicExists` when there is one; `ServiceTooOld` when the
    /// cell has no service of this name that is so old.
    pub async fn create_service(
        &self,
        context: &RequestContext,
        service: &mut Service,
    ) -> Result<(), ConductorError> {
        self.create_object(context, service).await
    }

    /// Saves what has changed, if anything. The service is up as of now if its `report_count` grew.
    ///
    /// # Errors
    /// `ServiceNotFound`; `ServiceTooOld`.
    pub async fn save_service(
        &self,
        context: &RequestContext,
        service: &mut Service,
    ) -> Result<(), ConductorError> {
        self.save_object(context, service).await
    }

    /// Saves what has changed in one try only, and waits no longer than this: who sends heartbeats
    /// sends another one soon.
    pub async fn save_service_once(
        &self,
        context: &RequestContext,
        service: &mut Service,
        within: Duration,
    ) -> Result<(), ConductorError> {
        let within = within.min(self.options.response_timeout);
        let hasty = ConductorOptions { response_timeout: within, ..(*self.options).clone() };
        let hasty = Self { caller: self.caller.clone(), options: Arc::new(hasty) };
        let primitive = service.to_primitive();
        let saved =
            hasty.object_action(context, service, primitive, "save", json!({}), Repeat::Never);
        saved.await.map(drop)
    }

    /// The lowest version of this cell's services of a name, of those not forced down; 0 when
    /// there is none.
    pub async fn minimum_version(
        &self,
        context: &RequestContext,
        binary: &str,
    ) -> Result<i64, ConductorError> {
        let (method, args) = ("get_minimum_version", json!([binary]));
        let found =
            self.class_action::<Service>(context, method, args, json!({}), Repeat::Harmless);
        decode("Service.get_minimum_version", &found.await?)
    }

    pub(super) fn nullable<T: FieldType>(
        &self,
        operation: &str,
        found: Value,
    ) -> Result<Option<T>, ConductorError> {
        decode(operation, &found)
    }
}

pub(super) fn decode<T: FieldType>(operation: &str, value: &Value) -> Result<T, ConductorError> {
    T::decode(value).map_err(|source| {
        let operation = operation.to_owned();
        ConductorError::Answer { operation, source }
    })
}

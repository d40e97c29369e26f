//! What a change is answered with besides that it is done: read from the records when it has ended, so that a
//! redelivery is answered with the same.

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use uuid::Uuid;

use super::failure::Fault;
use crate::model::context::RequestContext;
use crate::model::object::VersionedObject;
use crate::network::{NetworkError, RequestedNetwork, Vif};
use crate::volumes::VolumeError;
use crate::workflow::any::AnyRecord;
use crate::workflow::exception::{records_fault, step_fault};
use crate::workflow::{Backends, StepError};

/// A record that was to be made.
pub(super) struct Answer {
    context: RequestContext,
    instance: Uuid,
    of: What,
}

enum What {
    /// The record of a volume.
    Disk(String),
    /// An interface, in nova's model. Which port it was is known when it was given in this very run.
    Interface { given: Arc<OnceLock<Uuid>>, asked: RequestedNetwork },
}

impl Answer {
    /// `None`: nova's method answers `None`.
    pub(super) fn of(record: &AnyRecord) -> Option<Box<Self>> {
        let (context, head, of) = match record {
            AnyRecord::ReserveDevice(record) => {
                let of = What::Disk(record.workflow.volume_id().to_owned());
                (&record.context, &record.head, of)
            }
            AnyRecord::AttachInterface(record) => {
                let attach = &record.workflow;
                let of = What::Interface { given: attach.given(), asked: attach.request().clone() };
                (&record.context, &record.head, of)
            }
            _ => return None,
        };
        Some(Box::new(Self { context: context.clone(), instance: head.instance_uuid, of }))
    }

    /// # Errors
    /// The records'; `VolumeBDMNotFound` and `PortNotFound` for what is gone already.
    pub(super) async fn read(&self, on: &Backends) -> Result<Value, Fault> {
        match &self.of {
            What::Disk(volume_id) => self.disk(volume_id, on).await,
            What::Interface { given, asked } => {
                self.interface(given.get().copied(), asked, on).await
            }
        }
    }

    async fn disk(&self, volume_id: &str, on: &Backends) -> Result<Value, Fault> {
        let devices = on.records.block_devices(&self.context, self.instance).await;
        let devices = devices.map_err(|error| records_fault(&error))?.into_items();
        let found = devices.iter().find(|d| d.volume_id.text() == Some(volume_id));
        found.map(VersionedObject::to_primitive).ok_or_else(|| {
            step_fault(&StepError::Volume(VolumeError::NotAttached(volume_id.to_owned())))
        })
    }

    async fn interface(
        &self,
        given: Option<Uuid>,
        asked: &RequestedNetwork,
        on: &Backends,
    ) -> Result<Value, Fault> {
        let recorded = on.records.info_cache(&self.context, self.instance).await;
        let recorded = recorded.map_err(|error| records_fault(&error))?;
        let vifs = recorded.map(|cache| cache.vifs()).transpose();
        let fault = |error: NetworkError| step_fault(&StepError::Network(error));
        let vifs = vifs.map_err(|error| fault(error.into()))?.unwrap_or_default();
        let port = given.or(asked.port_id);
        // Before a restart: the last one that could be meant.
        let is_it = |vif: &&Vif| match (port, &asked.network_id) {
            (Some(port), _) => vif.id == port,
            (None, Some(id)) => vif
                .network
                .as_ref()
                .is_none_or(|network| network.id.as_ref().is_none_or(|own| own == id)),
            (None, None) => true,
        };
        let name = || port.map_or_else(|| "-".to_owned(), |port| port.to_string());
        let vif = vifs.iter().rev().find(is_it);
        let vif = vif.ok_or_else(|| fault(NetworkError::PortNotAttached(name())))?;
        serde_json::to_value(vif).map_err(|error| Fault::nova("NovaException", error.to_string()))
    }
}

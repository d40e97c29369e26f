//! What a change is answered with besides that it is done: read from the records when it has ended, so that a
//! redelivery is answered with the same.

use serde_json::Value;
use uuid::Uuid;

use super::failure::Fault;
use crate::model::context::RequestContext;
use crate::model::object::VersionedObject;
use crate::volumes::VolumeError;
use crate::workflow::any::AnyRecord;
use crate::workflow::exception::{records_fault, step_fault};
use crate::workflow::{Backends, StepError};

/// The record of a disk that was to be made.
pub(super) struct Answer {
    context: RequestContext,
    instance: Uuid,
    volume_id: String,
}

impl Answer {
    /// `None`: nova's method answers `None`.
    pub(super) fn of(record: &AnyRecord) -> Option<Box<Self>> {
        let AnyRecord::ReserveDevice(record) = record else { return None };
        Some(Box::new(Self {
            context: record.context.clone(),
            instance: record.head.instance_uuid,
            volume_id: record.workflow.volume_id().to_owned(),
        }))
    }

    /// # Errors
    /// The records'; `VolumeBDMNotFound` for what is gone already.
    pub(super) async fn read(&self, on: &Backends) -> Result<Value, Fault> {
        let devices = on.records.block_devices(&self.context, self.instance).await;
        let devices = devices.map_err(|error| records_fault(&error))?.into_items();
        let found = devices.iter().find(|d| d.volume_id.text() == Some(&self.volume_id));
        found.map(VersionedObject::to_primitive).ok_or_else(|| {
            step_fault(&StepError::Volume(VolumeError::NotAttached(self.volume_id.clone())))
        })
    }
}

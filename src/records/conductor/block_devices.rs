//! Instances' disks on record, and how they are used. nova: objects/{block_device,volume_usage}.py

use serde_json::{Value, json};
use uuid::Uuid;

use super::error::absent;
use super::{Conductor, ConductorError, Repeat};
use crate::model::context::RequestContext;
use crate::model::object::{
    BlockDeviceMapping, BlockDeviceMappingList, VersionedObject, VolumeUsage,
};

impl Conductor {
    /// The disks of an instance.
    pub async fn block_devices(
        &self,
        context: &RequestContext,
        instance: Uuid,
    ) -> Result<BlockDeviceMappingList, ConductorError> {
        let (method, args) = ("get_by_instance_uuid", json!([instance.to_string()]));
        self.fetch::<BlockDeviceMappingList, _>(context, method, args, json!({})).await
    }

    /// The disks of several instances. nova: get_by_instance_uuids
    pub async fn block_devices_of(
        &self,
        context: &RequestContext,
        instances: &[Uuid],
    ) -> Result<Vec<BlockDeviceMapping>, ConductorError> {
        let uuids: Vec<String> = instances.iter().map(Uuid::to_string).collect();
        let (method, args) = ("get_by_instance_uuids", json!([uuids]));
        let found: BlockDeviceMappingList =
            self.fetch::<BlockDeviceMappingList, _>(context, method, args, json!({})).await?;
        Ok(found.into_items())
    }

    /// Saves what has changed, if anything.
    pub async fn save_block_device(
        &self,
        context: &RequestContext,
        disk: &mut BlockDeviceMapping,
    ) -> Result<(), ConductorError> {
        if disk.what_changed().is_empty() {
            return Ok(());
        }
        let primitive = without_instance(disk);
        self.object_action(context, disk, primitive, "save", json!({}), Repeat::Harmless).await?;
        disk.reset_changes();
        Ok(())
    }

    /// Records a disk that is new. A lost answer is looked into by who asks again: nothing of the disk is
    /// known to conductor before.
    pub async fn create_block_device(
        &self,
        context: &RequestContext,
        disk: &mut BlockDeviceMapping,
    ) -> Result<(), ConductorError> {
        let primitive = without_instance(disk);
        let (method, kwargs) = ("create", json!({}));
        self.object_action(context, disk, primitive, method, kwargs, Repeat::Never).await?;
        disk.reset_changes();
        Ok(())
    }

    /// Takes a disk off the record; absent is success.
    pub async fn destroy_block_device(
        &self,
        context: &RequestContext,
        disk: &mut BlockDeviceMapping,
    ) -> Result<(), ConductorError> {
        let primitive = without_instance(disk);
        let (method, kwargs) = ("destroy", json!({}));
        let destroyed =
            self.object_action(context, disk, primitive, method, kwargs, Repeat::Harmless);
        absent(destroyed.await, &["BDMNotFound"]).map(drop)
    }

    /// Writes a volume's counters. Those that end are added up: what was lost on the way is not sent twice.
    pub async fn save_volume_usage(
        &self,
        context: &RequestContext,
        usage: &mut VolumeUsage,
        ends: bool,
    ) -> Result<(), ConductorError> {
        let (primitive, kwargs) = (usage.to_primitive(), json!({"update_totals": ends}));
        let repeat = if ends { Repeat::Never } else { Repeat::Harmless };
        self.object_action(context, usage, primitive, "save", kwargs, repeat).await?;
        usage.reset_changes();
        Ok(())
    }
}

/// The instance within is large, and conductor refuses to save it here.
fn without_instance(disk: &BlockDeviceMapping) -> Value {
    let mut primitive = disk.to_primitive();
    if let Some(data) = primitive.get_mut("nova_object.data").and_then(Value::as_object_mut) {
        data.remove("instance");
    }
    let changes = primitive.get_mut("nova_object.changes").and_then(Value::as_array_mut);
    if let Some(changes) = changes {
        changes.retain(|name| name != "instance");
    }
    primitive
}

//! What the records have of instances' network interfaces and PCI devices.
//! nova: objects/{virtual_interface,pci_device}.py

use serde_json::json;
use uuid::Uuid;

use super::{Conductor, ConductorError, Repeat};
use crate::model::context::RequestContext;
use crate::model::object::{
    PciDevice, PciDeviceList, VersionedObject, VirtualInterface, VirtualInterfaceList,
};

impl Conductor {
    /// Records an interface, whose uuid is its port's. One that is on record for the same instance
    /// already is taken as it is.
    ///
    /// # Errors
    /// `VirtualInterfaceCreateException` when another instance has it.
    pub async fn create_interface(
        &self,
        context: &RequestContext,
        interface: &mut VirtualInterface,
    ) -> Result<(), ConductorError> {
        let error = match self.create_object(context, interface).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let Some(uuid) = interface.uuid.get().copied() else { return Err(error) };
        if !error.is_unanswered() && !error.is("VirtualInterfaceCreateException") {
            return Err(error);
        }
        match self.interface(context, uuid).await? {
            Some(found) if found.instance_uuid.get() == interface.instance_uuid.get() => {
                *interface = found;
                Ok(())
            }
            None if error.is_unanswered() => self.create_object(context, interface).await,
            _ => Err(error),
        }
    }

    /// The interface of a port; `None` when it isn't recorded.
    pub async fn interface(
        &self,
        context: &RequestContext,
        uuid: Uuid,
    ) -> Result<Option<VirtualInterface>, ConductorError> {
        let (method, args) = ("get_by_uuid", json!([uuid.to_string()]));
        let found = self.class_action::<VirtualInterface>(
            context,
            method,
            args,
            json!({}),
            Repeat::Harmless,
        );
        self.nullable("VirtualInterface.get_by_uuid", found.await?)
    }

    pub async fn interfaces(
        &self,
        context: &RequestContext,
        instance: Uuid,
    ) -> Result<Vec<VirtualInterface>, ConductorError> {
        let (method, args) = ("get_by_instance_uuid", json!([instance.to_string()]));
        let found: VirtualInterfaceList =
            self.fetch::<VirtualInterfaceList, _>(context, method, args, json!({})).await?;
        Ok(found.into_items())
    }

    /// Removes the records of all of an instance's interfaces; absent is success.
    pub async fn delete_interfaces(
        &self,
        context: &RequestContext,
        instance: Uuid,
    ) -> Result<(), ConductorError> {
        let (method, args) = ("delete_by_instance_uuid", json!([instance.to_string()]));
        let deleted = self.class_action::<VirtualInterface>(
            context,
            method,
            args,
            json!({}),
            Repeat::Harmless,
        );
        deleted.await.map(drop)
    }

    /// Removes one interface's record; absent is success.
    pub async fn destroy_interface(
        &self,
        context: &RequestContext,
        interface: &mut VirtualInterface,
    ) -> Result<(), ConductorError> {
        let primitive = interface.to_primitive();
        let (method, kwargs) = ("destroy", json!({}));
        let destroyed =
            self.object_action(context, interface, primitive, method, kwargs, Repeat::Harmless);
        destroyed.await.map(drop)
    }

    /// The devices of a node, by the id of its record.
    pub async fn pci_devices_of_node(
        &self,
        context: &RequestContext,
        node_id: i64,
    ) -> Result<Vec<PciDevice>, ConductorError> {
        let (method, args) = ("get_by_compute_node", json!([node_id]));
        let found: PciDeviceList =
            self.fetch::<PciDeviceList, _>(context, method, args, json!({})).await?;
        Ok(found.into_items())
    }

    pub async fn pci_devices_of_instance(
        &self,
        context: &RequestContext,
        instance: Uuid,
    ) -> Result<Vec<PciDevice>, ConductorError> {
        let (method, args) = ("get_by_instance_uuid", json!([instance.to_string()]));
        let found: PciDeviceList =
            self.fetch::<PciDeviceList, _>(context, method, args, json!({})).await?;
        Ok(found.into_items())
    }
}

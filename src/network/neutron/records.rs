//! nova's own table of interfaces: it keeps their order and their tags. In nova mode conductor has
//! it.

use async_trait::async_trait;
use uuid::Uuid;

use crate::model::context::RequestContext;
use crate::model::object::VirtualInterface;
use crate::network::NetworkError;
use crate::records::ConductorError;
use crate::records::conductor::Conductor;
use crate::telemetry::Chain;

#[async_trait]
pub trait InterfaceRecords: Send + Sync {
    /// Records an interface; one of this port that is on record stays as it is.
    async fn create(
        &self,
        context: &RequestContext,
        interface: &mut VirtualInterface,
    ) -> Result<(), NetworkError>;

    /// The ports of the instance's interfaces, in the order in which they were recorded.
    async fn of_instance(
        &self,
        context: &RequestContext,
        instance: Uuid,
    ) -> Result<Vec<Uuid>, NetworkError>;

    /// The record of a port.
    async fn of_port(
        &self,
        context: &RequestContext,
        port: Uuid,
    ) -> Result<Option<VirtualInterface>, NetworkError>;

    /// Removes a record; absent is success.
    async fn destroy(
        &self,
        context: &RequestContext,
        interface: &mut VirtualInterface,
    ) -> Result<(), NetworkError>;

    /// Removes all of an instance's; none is success.
    async fn delete_of_instance(
        &self,
        context: &RequestContext,
        instance: Uuid,
    ) -> Result<(), NetworkError>;
}

#[async_trait]
impl InterfaceRecords for Conductor {
    async fn create(
        &self,
        context: &RequestContext,
        interface: &mut VirtualInterface,
    ) -> Result<(), NetworkError> {
        Ok(self.create_interface(context, interface).await?)
    }

    async fn of_instance(
        &self,
        context: &RequestContext,
        instance: Uuid,
    ) -> Result<Vec<Uuid>, NetworkError> {
        let mut interfaces = self.interfaces(context, instance).await?;
        interfaces.sort_by_key(|interface| interface.id.get().copied());
        Ok(interfaces.iter().filter_map(|interface| interface.uuid.get().copied()).collect())
    }

    async fn of_port(
        &self,
        context: &RequestContext,
        port: Uuid,
    ) -> Result<Option<VirtualInterface>, NetworkError> {
        Ok(self.interface(context, port).await?)
    }

    async fn destroy(
        &self,
        context: &RequestContext,
        interface: &mut VirtualInterface,
    ) -> Result<(), NetworkError> {
        Ok(self.destroy_interface(context, interface).await?)
    }

    async fn delete_of_instance(
        &self,
        context: &RequestContext,
        instance: Uuid,
    ) -> Result<(), NetworkError> {
        Ok(self.delete_interfaces(context, instance).await?)
    }
}

impl From<ConductorError> for NetworkError {
    fn from(error: ConductorError) -> Self {
        Self::Unrecorded { message: Chain(&error).to_string(), class: error.class() }
    }
}

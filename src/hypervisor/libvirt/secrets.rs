//! Passphrases of volumes, kept by libvirt. nova: virt/libvirt/host.py, `create_secret`, `find_secret`

use uuid::Uuid;
use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};
use virt::secret::Secret as Kept;
use virt_sys as sys;

use super::Libvirt;
use super::xml;
use crate::hypervisor::HypervisorError;
use crate::model::secret::Secret;

impl Libvirt {
    /// See [`Hypervisor::keep_volume_secret`](crate::hypervisor::Hypervisor::keep_volume_secret).
    pub(super) async fn keep_secret(
        &self,
        volume_id: &str,
        passphrase: &Secret,
    ) -> Result<Uuid, HypervisorError> {
        let (volume_id, passphrase) = (volume_id.to_owned(), passphrase.clone());
        self.call("keep secret", move |connect| {
            let kept = match find(connect, &volume_id)? {
                Some(kept) => kept,
                None => Kept::define_xml(connect, &xml::secret_xml(&volume_id), 0)?,
            };
            kept.set_value(passphrase.expose().as_bytes(), 0)?;
            Ok(kept.get_uuid()?)
        })
        .await
    }

    /// See [`Hypervisor::volume_secret`](crate::hypervisor::Hypervisor::volume_secret).
    pub(super) async fn find_secret(
        &self,
        volume_id: &str,
    ) -> Result<Option<Uuid>, HypervisorError> {
        let volume_id = volume_id.to_owned();
        self.call("find secret", move |connect| {
            Ok(find(connect, &volume_id)?.map(|kept| kept.get_uuid()).transpose()?)
        })
        .await
    }

    /// See [`Hypervisor::forget_volume_secret`](crate::hypervisor::Hypervisor::forget_volume_secret).
    pub(super) async fn drop_secret(&self, volume_id: &str) -> Result<(), HypervisorError> {
        let volume_id = volume_id.to_owned();
        self.call("forget secret", move |connect| match find(connect, &volume_id)? {
            Some(kept) => Ok(kept.undefine()?),
            None => Ok(()),
        })
        .await
    }
}

fn find(connect: &Connect, volume_id: &str) -> Result<Option<Kept>, Error> {
    // No volume has such an id, and C can't be asked for it.
    if volume_id.contains('\0') {
        return Ok(None);
    }
    match Kept::lookup_by_usage(connect, sys::VIR_SECRET_USAGE_TYPE_VOLUME as i32, volume_id) {
        Ok(kept) => Ok(Some(kept)),
        // A driver without secrets has none.
        Err(error) if matches!(error.code(), ErrorNumber::NoSecret | ErrorNumber::NoSupport) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

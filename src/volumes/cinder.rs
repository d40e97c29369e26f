//! Cinder's volumes, asked with the user's own token. nova: volume/cinder.py

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::keys::KeyManager;
use super::{ConnectionInfo, NewVolume, Volume, VolumeError, VolumeSnapshots, Volumes};
use crate::model::context::RequestContext;
use crate::model::object::BlockDeviceMapping;
use crate::model::secret::Secret;
use crate::openstack::{Api, ApiError, ApiRequest, ApiResponse, Identity, Method};

/// Ids are UUIDs.
const LONGEST_ID: usize = 255;

/// Whom Cinder's header of versions is for.
const VERSION_HEADER: &str = "OpenStack-API-Version";

/// Attachments begin there.
const ATTACHMENTS: &str = "volume 3.44";

/// Newest first, with what each tells more of a volume. nova: virt/block_device.py, `_get_volume`
const VOLUME_VERSIONS: [Option<&str>; 3] = [Some("volume 3.69"), Some("volume 3.48"), None];

/// The only format of an encrypted volume that QEMU opens by itself, under all names that it has had.
/// nova: os-brick, encryptors, LEGACY_PROVIDER_CLASS_TO_FORMAT_MAP
const LUKS: [&str; 4] = [
    "luks",
    "LuksEncryptor",
    "nova.volume.encryptors.luks.LuksEncryptor",
    "os_brick.encryptors.luks.LuksEncryptor",
];

/// The volume service.
pub struct Cinder {
    api: Arc<dyn Api>,
    keys: Arc<dyn KeyManager>,
}

impl Cinder {
    pub fn new(api: Arc<dyn Api>, keys: Arc<dyn KeyManager>) -> Self {
        Self { api, keys }
    }

    async fn ask(
        &self,
        request: ApiRequest<'_>,
        operation: &'static str,
        volume_id: &str,
    ) -> Result<ApiResponse, VolumeError> {
        let answer = self.api.send(request).await.and_then(|answer| answer.success(operation));
        answer.map_err(|source| match source {
            ApiError::Status { status: 404, .. } => VolumeError::NotFound(volume_id.to_owned()),
            source => VolumeError::Service { operation, volume_id: volume_id.to_owned(), source },
        })
    }

    /// An action on a volume, which has no answer.
    async fn act(
        &self,
        context: &RequestContext,
        volume_id: &str,
        action: Value,
        operation: &'static str,
    ) -> Result<ApiResponse, VolumeError> {
        let path = format!("/volumes/{}/action", checked(volume_id)?);
        let request = ApiRequest::new(Method::Post, path, Identity::User(context)).body(action);
        self.ask(request, operation, volume_id).await
    }
}

#[async_trait]
impl VolumeSnapshots for Cinder {
    /// nova: `get_snapshot`
    async fn is_being_made(
        &self,
        context: &RequestContext,
        snapshot: &str,
    ) -> Result<bool, VolumeError> {
        let Ok(id) = checked(snapshot) else { return Ok(false) };
        let request = ApiRequest::get(format!("/snapshots/{id}"), Identity::User(context));
        let answer = self.api.send(request).await.and_then(|answer| answer.success("snapshot"));
        match answer {
            Ok(answer) => {
                let status = answer.body.pointer("/snapshot/status").and_then(Value::as_str);
                Ok(status == Some("creating"))
            }
            Err(ApiError::Status { status: 404, .. }) => Ok(false),
            Err(source) => Err(VolumeError::Snapshot { snapshot: snapshot.to_owned(), source }),
        }
    }
}

#[async_trait]
impl Volumes for Cinder {
    async fn volume(&self, context: &RequestContext, id: &str) -> Result<Volume, VolumeError> {
        let path = format!("/volumes/{}", checked(id)?);
        let mut versions = VOLUME_VERSIONS.into_iter().peekable();
        while let Some(version) = versions.next() {
            let mut request = ApiRequest::get(path.clone(), Identity::User(context));
            if let Some(version) = version {
                request = request.header(VERSION_HEADER, version);
            }
            match self.ask(request, "look at", id).await {
                // An older Cinder.
                Err(VolumeError::Service {
                    source: ApiError::Status { status: 406, .. }, ..
                }) if versions.peek().is_some() => {}
                answer => return Ok(volume(id, &answer?.body["volume"])),
            }
        }
        Err(VolumeError::NotFound(id.to_owned()))
    }

    /// nova: `attachment_update`
    async fn open(
        &self,
        context: &RequestContext,
        device: &BlockDeviceMapping,
        connector: &Value,
    ) -> Result<ConnectionInfo, VolumeError> {
        let (volume_id, attachment) = (volume_of(device)?, attachment_of(device)?);
        let mut connector = connector.clone();
        if let (Some(connector), Some(name)) =
            (connector.as_object_mut(), device.device_name.text())
        {
            connector.insert("mountpoint".to_owned(), name.into());
        }
        let path = format!("/attachments/{attachment}");
        let request = ApiRequest::new(Method::Put, path, Identity::User(context))
            .header(VERSION_HEADER, ATTACHMENTS)
            .body(json!({"attachment": {"connector": connector}}));
        let answer = self.ask(request, "open", volume_id).await?;
        connection(answer.body, volume_id)
    }

    async fn complete(
        &self,
        context: &RequestContext,
        device: &BlockDeviceMapping,
    ) -> Result<(), VolumeError> {
        let (volume_id, attachment) = (volume_of(device)?, attachment_of(device)?);
        let path = format!("/attachments/{attachment}/action");
        let request = ApiRequest::new(Method::Post, path, Identity::User(context))
            .header(VERSION_HEADER, ATTACHMENTS)
            .body(json!({"os-complete": null}))
            .repeatable();
        self.ask(request, "complete the attachment of", volume_id).await.map(drop)
    }

    async fn close(
        &self,
        context: &RequestContext,
        device: &BlockDeviceMapping,
    ) -> Result<(), VolumeError> {
        let (volume_id, attachment) = (volume_of(device)?, attachment_of(device)?);
        let path = format!("/attachments/{attachment}");
        let request = ApiRequest::new(Method::Delete, path, Identity::User(context))
            .header(VERSION_HEADER, ATTACHMENTS);
        match self.ask(request, "close", volume_id).await {
            Err(VolumeError::NotFound(_)) => Ok(()),
            closed => closed.map(drop),
        }
    }

    async fn keep_attached(
        &self,
        context: &RequestContext,
        volume_id: &str,
    ) -> Result<(), VolumeError> {
        let action = json!({"os-roll_detaching": null});
        self.act(context, volume_id, action, "keep").await.map(drop)
    }

    async fn create(
        &self,
        context: &RequestContext,
        volume: &NewVolume,
    ) -> Result<String, VolumeError> {
        let mut asked = json!({
            "size": volume.size_gib,
            "consistencygroup_id": null,
            "snapshot_id": volume.snapshot,
            "name": volume.name,
            "description": "",
            "volume_type": volume.volume_type,
            "availability_zone": volume.availability_zone,
            "metadata": {},
            "source_volid": null,
            "backup_id": null,
        });
        if let Some(image) = &volume.image {
            asked["imageRef"] = image.as_str().into();
        }
        let request = ApiRequest::new(Method::Post, "/volumes", Identity::User(context))
            .body(json!({"volume": asked}));
        let answer = self.ask(request, "create", &volume.name).await?;
        let id = answer.body.pointer("/volume/id").and_then(Value::as_str);
        Ok(checked(id.unwrap_or_default())?.to_owned())
    }

    /// nova: `attachment_create`
    async fn reserve(
        &self,
        context: &RequestContext,
        volume_id: &str,
        instance: Uuid,
    ) -> Result<Uuid, VolumeError> {
        let attachment = json!({
            "volume_uuid": volume_id, "connector": null, "instance_uuid": instance.to_string(),
        });
        let request = ApiRequest::new(Method::Post, "/attachments", Identity::User(context))
            .header(VERSION_HEADER, ATTACHMENTS)
            .body(json!({"attachment": attachment}));
        let answer = self.ask(request, "reserve", volume_id).await?;
        let id = answer.body.pointer("/attachment/id").and_then(Value::as_str);
        id.and_then(|id| id.parse().ok()).ok_or_else(|| VolumeError::Connection {
            message: "the attachment has no id".to_owned(),
        })
    }

    async fn delete(&self, context: &RequestContext, volume_id: &str) -> Result<(), VolumeError> {
        let path = format!("/volumes/{}", checked(volume_id)?);
        let request = ApiRequest::new(Method::Delete, path, Identity::User(context));
        match self.ask(request, "delete", volume_id).await {
            Err(VolumeError::NotFound(_)) => Ok(()),
            deleted => deleted.map(drop),
        }
    }

    async fn type_of_snapshot(
        &self,
        context: &RequestContext,
        snapshot: &str,
    ) -> Result<Option<String>, VolumeError> {
        let path = format!("/snapshots/{}", checked(snapshot)?);
        let request = ApiRequest::get(path, Identity::User(context));
        let answer = self.ask(request, "look at the snapshot of", snapshot).await?;
        let Some(volume) = answer.body.pointer("/snapshot/volume_id").and_then(Value::as_str)
        else {
            return Ok(None);
        };
        Ok(self.volume(context, volume).await?.volume_type)
    }

    /// nova: os-brick, encryptors, `get_encryption_metadata`
    async fn passphrase(
        &self,
        context: &RequestContext,
        volume_id: &str,
        connection: &ConnectionInfo,
    ) -> Result<Option<Secret>, VolumeError> {
        if !connection.flag("encrypted") {
            return Ok(None);
        }
        let path = format!("/volumes/{}/encryption", checked(volume_id)?);
        let request = ApiRequest::get(path, Identity::User(context));
        let answer = self.ask(request, "read the encryption of", volume_id).await?;
        let text = |key: &str| answer.body.get(key).and_then(Value::as_str).unwrap_or_default();
        if !LUKS.contains(&text("provider")) {
            return Err(VolumeError::NotSupported("an encrypted volume other than LUKS"));
        }
        Ok(Some(self.keys.passphrase(context, volume_id, text("encryption_key_id")).await?))
    }

    async fn moved(
        &self,
        context: &RequestContext,
        old: &str,
        new: &str,
        failed: bool,
    ) -> Result<String, VolumeError> {
        let action = json!({"os-migrate_volume_completion": {"new_volume": new, "error": failed}});
        let answer = self.act(context, old, action, "complete the move of").await?;
        let kept = answer.body.get("save_volume_id").and_then(Value::as_str);
        Ok(checked(kept.unwrap_or_default())?.to_owned())
    }
}

fn volume(id: &str, body: &Value) -> Volume {
    let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
    let flag = |key: &str| body.get(key).and_then(Value::as_bool).unwrap_or(false);
    let attachments = body.get("attachments").and_then(Value::as_array);
    let server = |attachment: &Value| Some(attachment.get("server_id")?.as_str()?.to_owned());
    Volume {
        id: id.to_owned(),
        status: text("status").unwrap_or_default(),
        size_gib: body.get("size").and_then(Value::as_i64),
        is_multiattach: flag("multiattach"),
        is_encrypted: flag("encrypted"),
        volume_type: text("volume_type_id").or_else(|| text("volume_type")),
        migration_status: text("migration_status"),
        servers: attachments.into_iter().flatten().filter_map(server).collect(),
    }
}

/// Cinder's flat connection in nova's layout. nova: `_translate_attachment_ref`
fn connection(mut body: Value, volume_id: &str) -> Result<ConnectionInfo, VolumeError> {
    let bad = |message: &str| VolumeError::Connection { message: message.to_owned() };
    let Some(Value::Object(mut attachment)) = body.get_mut("attachment").map(Value::take) else {
        return Err(bad("there is no attachment in the answer"));
    };
    let Some(Value::Object(mut data)) = attachment.shift_remove("connection_info") else {
        return Err(bad("the attachment has no connection"));
    };
    data.shift_remove("attachment_id");
    let kind = data.shift_remove("driver_volume_type").filter(Value::is_string);
    let mut fields = Map::new();
    fields.insert("driver_volume_type".to_owned(), kind.ok_or_else(|| bad("it has no kind"))?);
    fields.insert("data".to_owned(), Value::Object(data));
    for key in ["status", "instance", "attached_at", "detached_at"] {
        fields.insert(key.to_owned(), attachment.shift_remove(key).unwrap_or_default());
    }
    fields.extend(attachment.into_iter().filter(|(key, _)| key != "id" && key != "attach_mode"));
    let mut connection = ConnectionInfo::new(fields);
    connection.default_serial(volume_id);
    Ok(connection)
}

fn volume_of(device: &BlockDeviceMapping) -> Result<&str, VolumeError> {
    device.volume_id.text().ok_or_else(|| VolumeError::Invalid("the disk has no volume".to_owned()))
}

/// Volumes that were attached before there were attachments, in 2018, need another way.
fn attachment_of(device: &BlockDeviceMapping) -> Result<Uuid, VolumeError> {
    let found = device.attachment_id.value().copied();
    found.ok_or(VolumeError::NotSupported("a volume without an attachment"))
}

/// An id that becomes a part of a path.
fn checked(id: &str) -> Result<&str, VolumeError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    match !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(plain) {
        true => Ok(id),
        false => Err(VolumeError::NotFound(crate::model::object::clip(id))),
    }
}

#[cfg(test)]
mod tests;

//! Over an API in memory that answers as Cinder was recorded to.

use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::volumes::keys::FixedKey;

const VOLUME: &str = "42604999-0e57-41dc-8a27-bf410f32632f";
const ATTACHMENT: &str = "b1b662ef-bcfb-4266-a0a0-382aed4f47e7";

/// What was asked, and the answers to it.
#[derive(Default)]
struct Recorded {
    asked: Mutex<Vec<String>>,
    bodies: Mutex<Vec<Value>>,
    old: bool,
}

#[async_trait]
impl Api for Recorded {
    async fn send(&self, request: ApiRequest<'_>) -> Result<ApiResponse, ApiError> {
        let version = request.headers.iter().find(|(name, _)| *name == VERSION_HEADER);
        let version = version.map_or("-", |(_, version)| version.as_str()).to_owned();
        let line = format!("{} {} {version}", request.method.as_str(), request.path);
        self.asked.lock().unwrap().push(line.clone());
        self.bodies.lock().unwrap().extend(request.body.clone());
        let answer = match line.as_str() {
            _ if self.old && ["volume 3.69", "volume 3.48"].contains(&version.as_str()) => {
                (406, json!({"computeFault": {"message": "no"}}))
            }
            _ if request.path == format!("/volumes/{VOLUME}") && line.starts_with("GET") => (
                200,
                json!({"volume": {
                    "id": VOLUME, "status": "reserved", "size": 1, "multiattach": true,
                    "volume_type_id": "t", "attachments": [{"server_id": "s"}],
                }}),
            ),
            _ if line.starts_with("PUT") => (
                200,
                json!({"attachment": {
                    "id": ATTACHMENT, "status": "reserved", "instance": "i", "volume_id": VOLUME,
                    "attached_at": "", "detached_at": "", "attach_mode": "null",
                    "connection_info": {
                        "export": "10.66.0.1:/vol", "name": "volume-1", "options": null,
                        "format": "raw", "driver_volume_type": "nfs", "attachment_id": ATTACHMENT,
                    },
                }}),
            ),
            _ if request.path.ends_with("/action") => (202, Value::Null),
            _ if request.path == "/volumes" => (202, json!({"volume": {"id": "new"}})),
            _ if request.path == "/attachments" => (200, json!({"attachment": {"id": ATTACHMENT}})),
            _ if request.path.ends_with("/encryption") => (
                200,
                json!({
                    "provider": "luks", "encryption_key_id": "00000000-0000-0000-0000-000000000000",
                }),
            ),
            "GET /snapshots/creating -" => (200, json!({"snapshot": {"status": "creating"}})),
            "GET /snapshots/available -" => (200, json!({"snapshot": {"status": "available"}})),
            "GET /snapshots/broken -" => (500, json!({})),
            _ => (404, json!({})),
        };
        Ok(ApiResponse { status: answer.0, body: answer.1, request_id: None })
    }
}

fn cinder(old: bool) -> (Cinder, Arc<Recorded>) {
    let api = Arc::new(Recorded { old, ..Recorded::default() });
    let keys = Arc::new(FixedKey(Some(Secret::new("0aFF"))));
    (Cinder::new(api.clone(), keys), api)
}

fn device() -> BlockDeviceMapping {
    let mut device = BlockDeviceMapping::default();
    device.volume_id.load(Some(Some(VOLUME.to_owned())));
    device.attachment_id.load(Some(ATTACHMENT.parse().ok()));
    device.device_name.load(Some(Some("/dev/vdb".to_owned())));
    device
}

#[tokio::test]
async fn only_creating_is_being_made() {
    let (cinder, _) = cinder(false);
    let context = RequestContext::admin();
    for (id, expected) in [
        ("creating", true),
        ("available", false),
        ("gone", false),
        ("../volumes", false),
        ("", false),
    ] {
        assert_eq!(cinder.is_being_made(&context, id).await.unwrap(), expected, "{id}");
    }
    assert!(cinder.is_being_made(&context, "broken").await.is_err());
}

#[tokio::test]
async fn a_volume_is_opened_in_novas_words_and_kept_in_novas_layout() {
    let (cinder, api) = cinder(false);
    let context = RequestContext::admin();
    let connector = json!({"host": "compute1"});
    let info = cinder.open(&context, &device(), &connector).await.unwrap();
    cinder.complete(&context, &device()).await.unwrap();
    cinder.close(&context, &device()).await.unwrap();
    cinder.keep_attached(&context, VOLUME).await.unwrap();
    let expected = [
        format!("PUT /attachments/{ATTACHMENT} volume 3.44"),
        format!("POST /attachments/{ATTACHMENT}/action volume 3.44"),
        // It is gone: that is a success.
        format!("DELETE /attachments/{ATTACHMENT} volume 3.44"),
        format!("POST /volumes/{VOLUME}/action -"),
    ];
    assert_eq!(*api.asked.lock().unwrap(), expected);
    let bodies = api.bodies.lock().unwrap();
    let connector = json!({"host": "compute1", "mountpoint": "/dev/vdb"});
    assert_eq!(bodies[0], json!({"attachment": {"connector": connector}}));
    assert_eq!(bodies[1], json!({"os-complete": null}));
    assert_eq!(bodies[2], json!({"os-roll_detaching": null}));
    let expected = concat!(
        r#"{"driver_volume_type": "nfs", "data": {"export": "10.66.0.1:/vol", "name": "volume-1", "#,
        r#""options": null, "format": "raw"}, "status": "reserved", "instance": "i", "#,
        r#""attached_at": "", "detached_at": "", "#,
        r#""volume_id": "42604999-0e57-41dc-8a27-bf410f32632f", "#,
        r#""serial": "42604999-0e57-41dc-8a27-bf410f32632f"}"#
    );
    assert_eq!(info.to_secret().expose(), expected);
}

#[tokio::test]
async fn a_volume_without_an_attachment_is_not_supported() {
    let (cinder, api) = cinder(false);
    let mut device = device();
    device.attachment_id.load(Some(None));
    let error = cinder.close(&RequestContext::admin(), &device).await.unwrap_err();
    assert!(matches!(error, VolumeError::NotSupported(_)), "{error}");
    assert!(api.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_older_cinder_is_asked_in_its_own_words() {
    let context = RequestContext::admin();
    for (old, times) in [(false, 1), (true, 3)] {
        let (cinder, api) = cinder(old);
        let volume = cinder.volume(&context, VOLUME).await.unwrap();
        assert_eq!(
            (volume.size_gib, volume.is_multiattach, &*volume.status),
            (Some(1), true, "reserved")
        );
        assert_eq!(volume.servers, ["s"]);
        assert_eq!(api.asked.lock().unwrap().len(), times);
    }
    let (cinder, _) = cinder(false);
    for gone in ["gone", "../attachments", ""] {
        let error = cinder.volume(&context, gone).await.unwrap_err();
        assert!(matches!(error, VolumeError::NotFound(_)), "{error}");
    }
}

#[tokio::test]
async fn a_volume_is_made_in_novas_words() {
    let (cinder, api) = cinder(false);
    let context = RequestContext::admin();
    let asked = NewVolume { size_gib: 1, image: Some("img".into()), ..NewVolume::default() };
    assert_eq!(cinder.create(&context, &asked).await.unwrap(), "new");
    cinder.reserve(&context, "new", Uuid::nil()).await.unwrap();
    let bodies = api.bodies.lock().unwrap();
    // As recorded.
    let expected = json!({"volume": {
        "size": 1, "consistencygroup_id": null, "snapshot_id": null, "name": "",
        "description": "", "volume_type": null, "availability_zone": null, "metadata": {},
        "imageRef": "img", "source_volid": null, "backup_id": null,
    }});
    assert_eq!(bodies[0], expected);
    let instance = Uuid::nil().to_string();
    let expected = json!({"volume_uuid": "new", "connector": null, "instance_uuid": instance});
    assert_eq!(bodies[1], json!({"attachment": expected}));
}

#[tokio::test]
async fn a_key_is_what_opens_an_encrypted_volume() {
    let (cinder, api) = cinder(false);
    let context = RequestContext::admin();
    let info = |encrypted: bool| {
        let info = json!({"data": {"encrypted": encrypted}});
        ConnectionInfo::new(info.as_object().unwrap().clone())
    };
    assert_eq!(cinder.passphrase(&context, VOLUME, &info(false)).await.unwrap(), None);
    assert!(api.asked.lock().unwrap().is_empty());
    let found = cinder.passphrase(&context, VOLUME, &info(true)).await.unwrap().unwrap();
    assert_eq!(found.expose(), "0aff");
}

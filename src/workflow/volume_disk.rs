//! From the way to a volume to a disk's XML: all but its place in the guest. Pure.
//! nova: virt/libvirt/volume/{volume,nfs,iscsi,net}.py, `get_config`

use std::path::PathBuf;

use serde_json::Value;
use uuid::Uuid;

use super::VolumeSettings;
use crate::hypervisor::block::alias_of;
use crate::hypervisor::spec::{DiskAuth, DiskSource, DiskSpec, NetworkDisk};
use crate::model::object::clip;
use crate::volumes::host::{ISCSI, LOCAL, NFS, RBD, local};
use crate::volumes::{ConnectionInfo, VolumeError};

/// The limits that a volume's type may set.
const TUNABLE: [&str; 13] = [
    "total_bytes_sec",
    "read_bytes_sec",
    "write_bytes_sec",
    "total_iops_sec",
    "read_iops_sec",
    "write_iops_sec",
    "read_bytes_sec_max",
    "read_iops_sec_max",
    "write_bytes_sec_max",
    "write_iops_sec_max",
    "total_bytes_sec_max",
    "total_iops_sec_max",
    "size_iops_sec",
];

/// Formats that a file on an export may have.
const FORMATS: [&str; 2] = ["raw", "qcow2"];

/// The disk of a connected volume. `luks_secret` opens an encrypted one.
///
/// # Errors
/// `Unsupported` for other kinds of connections, `Connection` for what makes no sense.
pub fn disk(
    connection: &ConnectionInfo,
    luks_secret: Option<Uuid>,
    settings: &VolumeSettings,
) -> Result<DiskSpec, VolumeError> {
    let (source, format, io) = source(connection, settings)?;
    let bad = |message: String| VolumeError::Connection { message };
    let readonly = match connection.data("access_mode").and_then(Value::as_str) {
        None | Some("" | "rw") => false,
        Some("ro") => true,
        Some(other) => return Err(bad(format!("there is no access mode {}", clip(other)))),
    };
    let size = |key: &str| match connection.data(key) {
        None => Ok(None),
        Some(value) => {
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
            let number = number.and_then(|number| u32::try_from(number).ok());
            number.map(Some).ok_or_else(|| bad(format!("its {key} is no size")))
        }
    };
    let io = io.filter(|_| !settings.default_aio_mode);
    Ok(DiskSpec {
        source,
        format,
        cache: "none".to_owned(),
        io: io.map(str::to_owned),
        discard: connection.flag("discard").then(|| "unmap".to_owned()),
        serial: connection.serial().map(str::to_owned),
        iotune: iotune(connection),
        alias: connection.volume_id().map(alias_of),
        block_sizes: (size("logical_block_size")?, size("physical_block_size")?),
        readonly,
        shareable: connection.is_multiattach(),
        luks_secret,
        ..DiskSpec::default()
    })
}

type Source = (DiskSource, String, Option<&'static str>);

/// Where it is, its format, and how QEMU reads it, unless that is left to libvirt.
fn source(connection: &ConnectionInfo, settings: &VolumeSettings) -> Result<Source, VolumeError> {
    let raw = || "raw".to_owned();
    match connection.kind() {
        LOCAL => {
            let path = path(connection)?;
            match connection.text(local::SOURCE) {
                Some("file") => Ok((DiskSource::File(path), format(connection)?, None)),
                _ => Ok((DiskSource::Block(path), raw(), None)),
            }
        }
        NFS => Ok((DiskSource::File(path(connection)?), format(connection)?, Some("native"))),
        ISCSI => Ok((DiskSource::Block(path(connection)?), raw(), Some("native"))),
        RBD => Ok((DiskSource::Network(rbd(connection, settings)?), raw(), None)),
        other => Err(VolumeError::Unsupported(other.to_owned())),
    }
}

fn path(connection: &ConnectionInfo) -> Result<PathBuf, VolumeError> {
    connection.required("device_path").map(PathBuf::from)
}

fn format(connection: &ConnectionInfo) -> Result<String, VolumeError> {
    let format = connection.text("format").unwrap_or("raw");
    match FORMATS.contains(&format) {
        true => Ok(format.to_owned()),
        false => Err(VolumeError::Connection {
            message: format!("a volume of format {} is not supported", clip(format)),
        }),
    }
}

fn iotune(connection: &ConnectionInfo) -> Vec<(String, u64)> {
    let specs = connection.data("qos_specs").and_then(Value::as_object);
    let limit = |(key, value): (&String, &Value)| {
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
        TUNABLE.contains(&key.as_str()).then(|| (key.clone(), number))
    };
    specs.into_iter().flatten().filter_map(limit).collect()
}

/// nova: virt/libvirt/volume/net.py, `_set_auth_config_rbd`
fn rbd(connection: &ConnectionInfo, settings: &VolumeSettings) -> Result<NetworkDisk, VolumeError> {
    let list = |key: &str| {
        let all = connection.data(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        all.iter().map(text).collect::<Vec<_>>()
    };
    let hosts = list("hosts").into_iter().flatten().zip(list("ports")).collect();
    let own = settings.rbd_user.clone().zip(settings.rbd_secret_uuid.clone());
    let asked = connection.text("auth_username").zip(connection.text("secret_uuid"));
    let auth = match connection.flag("auth_enabled") {
        true => {
            let asked = asked.map(|(user, secret)| (user.to_owned(), secret.to_owned()));
            Some(asked.or(own).ok_or_else(|| VolumeError::Connection {
                message:
                    "it names no secret, and neither does [libvirt] rbd_secret_uuid".to_owned(),
            })?)
        }
        false => own,
    };
    Ok(NetworkDisk {
        protocol: RBD.to_owned(),
        name: connection.required("name")?.to_owned(),
        hosts,
        auth: auth.map(|(username, secret_uuid)| DiskAuth {
            username,
            secret_type: connection.text("secret_type").unwrap_or("ceph").to_owned(),
            secret_uuid,
        }),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hypervisor::libvirt::xml::disk_xml;
    use crate::workflow::Settings;

    fn xml(info: Value, place: (&str, &str)) -> String {
        let info = ConnectionInfo::new(info.as_object().unwrap().clone());
        let secret = info.flag("encrypted").then(|| Uuid::from_u128(7));
        let disk = disk(&info, secret, &Settings::example().volumes).unwrap();
        let (target, bus) = (place.0.to_owned(), place.1.to_owned());
        disk_xml(&DiskSpec { target, bus, device: "disk".to_owned(), ..disk }, "kvm")
    }

    #[test]
    fn a_file_on_an_export_is_as_nova_has_it() {
        let xml = xml(
            json!({
                "driver_volume_type": "nfs",
                "data": {
                    "export": "10.66.0.1:/vol", "name": "volume-1", "format": "qcow2",
                    "qos_specs": {"read_bytes_sec": "1024", "unknown": 1, "total_iops_sec_max": 9},
                    "access_mode": "ro", "device_path": "/m/volume-1", "discard": true,
                },
                "serial": "1", "multiattach": true,
            }),
            ("vdb", "virtio"),
        );
        let expected = r#"<disk type="file" device="disk">
  <driver name="qemu" type="qcow2" cache="none" discard="unmap" io="native"/>
  <alias name="ua-1"/>
  <source file="/m/volume-1"/>
  <target dev="vdb" bus="virtio"/>
  <serial>1</serial>
  <iotune>
    <read_bytes_sec>1024</read_bytes_sec>
    <total_iops_sec_max>9</total_iops_sec_max>
  </iotune>
  <readonly/>
  <shareable/>
</disk>
"#;
        assert_eq!(xml, expected);
    }

    #[test]
    fn a_block_device_behind_a_target_is_as_nova_has_it() {
        let xml = xml(
            json!({
                "driver_volume_type": "iscsi",
                "data": {
                    "device_path": "/dev/dm-3", "encrypted": true, "logical_block_size": "512",
                    "physical_block_size": 4096,
                },
                "serial": "2",
            }),
            ("sdb", "scsi"),
        );
        let expected = r#"<disk type="block" device="disk">
  <driver name="qemu" type="raw" cache="none" io="native"/>
  <alias name="ua-2"/>
  <source dev="/dev/dm-3"/>
  <target dev="sdb" bus="scsi"/>
  <serial>2</serial>
  <blockio logical_block_size="512" physical_block_size="4096"/>
  <encryption format="luks">
    <secret type="passphrase" uuid="00000000-0000-0000-0000-000000000007"/>
  </encryption>
</disk>
"#;
        assert_eq!(xml, expected);
    }

    #[test]
    fn a_volume_of_ceph_is_as_nova_has_it() {
        let xml = xml(
            json!({
                "driver_volume_type": "rbd",
                "data": {
                    "name": "volumes/volume-3", "hosts": ["10.0.0.1", "10.0.0.2"],
                    "ports": ["6789", "6789"], "auth_enabled": true, "auth_username": "cinder",
                    "secret_type": "ceph", "secret_uuid": "457eb676-33da-42ec-9a8c-9293d545c337",
                },
                "serial": "3",
            }),
            ("vdc", "virtio"),
        );
        let expected = r#"<disk type="network" device="disk">
  <driver name="qemu" type="raw" cache="none"/>
  <alias name="ua-3"/>
  <source protocol="rbd" name="volumes/volume-3">
    <host name="10.0.0.1" port="6789"/>
    <host name="10.0.0.2" port="6789"/>
  </source>
  <auth username="cinder">
    <secret type="ceph" uuid="457eb676-33da-42ec-9a8c-9293d545c337"/>
  </auth>
  <target dev="vdc" bus="virtio"/>
  <serial>3</serial>
</disk>
"#;
        assert_eq!(xml, expected);
    }

    #[test]
    fn other_kinds_are_not_supported_and_nonsense_is_refused() {
        for info in [
            json!({"driver_volume_type": "fibre_channel", "data": {"device_path": "/dev/x"}}),
            json!({"driver_volume_type": "nfs", "data": {}}),
            json!({"driver_volume_type": "nfs", "data": {"device_path": "/x", "format": "vmdk"}}),
            json!({"driver_volume_type": "nfs", "data": {"device_path": "/x", "access_mode": "x"}}),
            json!({"driver_volume_type": "rbd", "data": {"name": "a/b", "auth_enabled": true}}),
        ] {
            let info = ConnectionInfo::new(info.as_object().unwrap().clone());
            disk(&info, None, &Settings::example().volumes).unwrap_err();
        }
    }
}

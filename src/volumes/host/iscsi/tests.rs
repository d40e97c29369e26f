//! Over tools with recorded output, and a sysfs in a directory.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use serde_json::json;

use super::super::tool::Ended;
use super::*;

const IQN: &str = "iqn.2010-10.org.openstack:volume-42604999-0e57-41dc-8a27-bf410f32632f";
const SESSIONS: &str = "tcp: [1] 10.0.0.9:3260,1 iqn.other (non-flash)\n";

/// What the tools have been asked, and what the world looks like afterwards.
#[derive(Default)]
struct Recorded {
    root: PathBuf,
    asked: std::sync::Mutex<Vec<String>>,
    /// Sessions that are open: portal → number.
    open: std::sync::Mutex<BTreeMap<String, u32>>,
    /// Portals that don't answer.
    dead: Vec<&'static str>,
    multipathd: bool,
}

impl Recorded {
    fn ended(code: i32, stdout: &str, stderr: &str) -> Result<Ended, VolumeError> {
        Ok(Ended { code: Some(code), stdout: stdout.to_owned(), stderr: stderr.to_owned() })
    }

    /// The kernel finds unit 1 of a session as a disk.
    fn show(&self, session: u32) {
        let disk = format!("sd{}", char::from(b'a' + session as u8));
        let unit = format!(
            "sys/class/scsi_host/host{session}/device/session{session}/target{session}:0:0/\
             {session}:0:0:1/block/{disk}"
        );
        std::fs::create_dir_all(self.root.join(unit)).unwrap();
        std::fs::create_dir_all(self.root.join(format!("sys/block/{disk}/device"))).unwrap();
        let host = format!(
            "sys/class/iscsi_host/host{session}/device/session{session}/target{session}:0:0"
        );
        std::fs::create_dir_all(self.root.join(host)).unwrap();
        let by_id = self.root.join("dev/disk/by-id");
        std::fs::create_dir_all(&by_id).unwrap();
        let link = by_id.join(format!("scsi-36001405{session}"));
        std::os::unix::fs::symlink(format!("../../{disk}"), link).unwrap();
    }
}

#[async_trait]
impl Tools for Recorded {
    async fn run(&self, program: &'static str, args: &[String]) -> Result<Ended, VolumeError> {
        let line = format!("{program} {}", args.join(" "));
        self.asked.lock().unwrap().push(line.clone());
        let portal = args.iter().skip_while(|arg| *arg != "-p").nth(1).cloned();
        let portal = portal.unwrap_or_default();
        match line.as_str() {
            "iscsiadm -m session" => {
                let mut text = SESSIONS.to_owned();
                for (portal, number) in self.open.lock().unwrap().iter() {
                    text.push_str(&format!("tcp: [{number}] {portal},1 {IQN} (non-flash)\n"));
                }
                Self::ended(0, &text, "")
            }
            "multipathd show status" if self.multipathd => {
                Self::ended(0, "path checker states:\nup 2\n", "")
            }
            "multipathd show status" => Self::ended(1, "", "error -2 receiving packet"),
            _ if line.ends_with("--login") => {
                if self.dead.contains(&portal.as_str()) {
                    let said = "iscsiadm: Could not login to [iface: default]\niscsiadm: initiator \
                                reported error (8 - connection timed out)";
                    return Self::ended(8, "", said);
                }
                let number = 2 + self.open.lock().unwrap().len() as u32;
                self.open.lock().unwrap().insert(portal, number);
                self.show(number);
                Self::ended(0, "Login to [iface: default, …] successful.\n", "")
            }
            _ if line.ends_with("--logout") => {
                self.open.lock().unwrap().remove(&portal);
                Self::ended(0, "", "")
            }
            _ if line.starts_with("multipathd add path") => {
                for disk in ["sdc", "sdd"] {
                    let holder = self.root.join(format!("sys/block/{disk}/holders/dm-3"));
                    std::fs::create_dir_all(holder).unwrap();
                }
                let name = self.root.join("sys/block/dm-3/dm");
                std::fs::create_dir_all(&name).unwrap();
                std::fs::write(name.join("name"), "36001405\n").unwrap();
                Self::ended(0, "ok\n", "")
            }
            _ if line.starts_with("blockdev --getsize64") => Self::ended(0, "2147483648\n", ""),
            _ if line.starts_with("multipathd resize map") => Self::ended(0, "ok\n", ""),
            // No record of the node yet.
            _ if !portal.is_empty() && line.ends_with(&portal) => {
                Self::ended(21, "", "iscsiadm: No records found\n")
            }
            _ => Self::ended(0, "", ""),
        }
    }
}

fn world(root: &Path, change: impl FnOnce(&mut Recorded)) -> (Iscsi, Arc<Recorded>) {
    let mut recorded = Recorded { root: root.to_owned(), ..Recorded::default() };
    change(&mut recorded);
    let options = HostOptions {
        host: "h".into(),
        ip: "10.0.0.1".into(),
        nfs_mount_point_base: "/mnt".into(),
        nfs_mount_options: None,
        use_multipath: recorded.multipathd,
        enforce_multipath: false,
        scan_tries: 1,
        iscsi_iface: None,
        tool_timeout: Duration::from_secs(1),
    };
    let recorded = Arc::new(recorded);
    let iscsi = Iscsi::with(&options, recorded.clone(), Sysfs::new(root.to_owned()));
    (iscsi, recorded)
}

fn connection(extra: serde_json::Value) -> ConnectionInfo {
    let mut info = json!({
        "driver_volume_type": "iscsi",
        "data": {
            "target_portal": "10.0.0.1:3260", "target_iqn": IQN, "target_lun": 1,
            "auth_method": "CHAP", "auth_username": "u", "auth_password": "p",
        },
    });
    for (key, value) in extra.as_object().unwrap() {
        info["data"][key] = value.clone();
    }
    ConnectionInfo::new(info.as_object().unwrap().clone())
}

fn paths() -> serde_json::Value {
    json!({
        "target_portals": ["10.0.0.1:3260", "10.0.1.1:3260"],
        "target_iqns": [IQN, IQN],
        "target_luns": [1, 1],
    })
}

#[tokio::test]
async fn a_volume_is_logged_in_to_and_left() {
    let root = tempfile::tempdir().unwrap();
    let (iscsi, recorded) = world(root.path(), |_| {});
    let mut info = connection(json!({}));
    iscsi.connect(&mut info).await.unwrap();
    assert_eq!(info.text("device_path"), Some("/dev/sdc"));
    let node = format!("iscsiadm -m node -T {IQN} -p 10.0.0.1:3260");
    let expected = [
        node.clone(),
        format!("{node} --interface default --op new"),
        format!("{node} --op update -n node.session.scan -v manual"),
        format!("{node} --op update -n node.session.auth.authmethod -v CHAP"),
        format!("{node} --op update -n node.session.auth.username -v u"),
        format!("{node} --op update -n node.session.auth.password -v p"),
        "iscsiadm -m session".to_owned(),
        format!("{node} --login"),
        format!("{node} --op update -n node.startup -v automatic"),
        "iscsiadm -m session".to_owned(),
    ];
    assert_eq!(*recorded.asked.lock().unwrap(), expected);

    // Once more: there is a session already.
    iscsi.connect(&mut info).await.unwrap();
    assert_eq!(recorded.open.lock().unwrap().len(), 1);
    assert_eq!(iscsi.grow(&info).await.unwrap(), 2 << 30);

    // Another guest has it, too.
    let other = DiskUser { instance: Uuid::from_u128(2), path: "/dev/sdc".into() };
    iscsi.disconnect(&info, Uuid::from_u128(1), &[other]).await.unwrap();
    assert_eq!(recorded.open.lock().unwrap().len(), 1);

    // The kernel takes the disk away when it is told to.
    let disk = root.path().join("sys/block/sdc");
    let gone = disk.clone();
    let kernel = tokio::spawn(async move {
        while !gone.join("device/delete").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::fs::remove_dir_all(&gone).unwrap();
    });
    iscsi.disconnect(&info, Uuid::from_u128(1), &[]).await.unwrap();
    kernel.await.unwrap();
    assert!(recorded.open.lock().unwrap().is_empty());
    let asked = recorded.asked.lock().unwrap();
    assert!(asked.contains(&"blockdev --flushbufs /dev/sdc".to_owned()));
    assert_eq!(asked.last().unwrap(), &format!("{node} --op delete"));
}

#[tokio::test]
async fn several_paths_become_one_device() {
    let root = tempfile::tempdir().unwrap();
    let (iscsi, recorded) = world(root.path(), |recorded| recorded.multipathd = true);
    let mut info = connection(paths());
    iscsi.connect(&mut info).await.unwrap();
    assert_eq!(info.text("device_path"), Some("/dev/dm-3"));
    assert_eq!(info.text("multipath_id"), Some("360014052"));
    let asked = recorded.asked.lock().unwrap().clone();
    assert!(asked.contains(&"multipath -a 360014052".to_owned()), "{asked:?}");
    assert!(asked.contains(&"multipathd add path /dev/sdd".to_owned()), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_dead_is_left_out_and_with_all_dead_nothing_is_left() {
    let root = tempfile::tempdir().unwrap();
    let (iscsi, recorded) = world(root.path(), |recorded| recorded.dead = vec!["10.0.0.1:3260"]);
    let mut info = connection(paths());
    iscsi.connect(&mut info).await.unwrap();
    assert_eq!(info.text("device_path"), Some("/dev/sdc"));
    let asked = recorded.asked.lock().unwrap().clone();
    let deleted = format!("iscsiadm -m node -T {IQN} -p 10.0.0.1:3260 --op delete");
    assert!(asked.contains(&deleted), "{asked:?}");

    let root = tempfile::tempdir().unwrap();
    let (iscsi, recorded) = world(root.path(), |recorded| recorded.dead = vec!["10.0.0.1:3260"]);
    let mut info = connection(json!({}));
    let error = iscsi.connect(&mut info).await.unwrap_err();
    assert!(error.to_string().contains("connection timed out"), "{error}");
    assert!(recorded.asked.lock().unwrap().contains(&deleted));
    assert_eq!(info.text("device_path"), None);
}

#[test]
fn what_is_no_target_is_refused() {
    for wrong in [
        json!({"target_portal": "-p"}),
        json!({"target_iqn": "iqn x"}),
        json!({"target_lun": "many"}),
        json!({"target_portals": ["a"], "target_iqns": [], "target_luns": [1]}),
    ] {
        assert!(targets(&connection(wrong.clone())).is_err(), "{wrong}");
    }
}

#[test]
fn sessions_are_read_as_iscsiadm_lists_them() {
    let text =
        "tcp: [3] [fd00::1]:3260,1 iqn.a (non-flash)\niser: [14] 10.0.0.1:3260,-1 iqn.b\nnone\n";
    let found = sessions(text);
    assert_eq!(found.len(), 2);
    assert_eq!(
        (&*found[0].id, &*found[0].portal, &*found[0].iqn),
        ("3", "[fd00::1]:3260", "iqn.a")
    );
    assert_eq!((&*found[1].id, &*found[1].portal), ("14", "10.0.0.1:3260"));
}

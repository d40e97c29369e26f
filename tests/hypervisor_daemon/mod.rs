//! A libvirtd of the test's own, in a mount namespace of its own: own socket, own state, own
//! configuration, so that it can be killed, stopped and started again without touching the host's.
//! Needs root, `unshare`, libvirtd and qemu; no virtlogd (`stdio_handler = "file"`).

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIBVIRTD_CONF: &str = r#"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0777"
log_level = 3
"#;

/// No cgroups, no security driver, no namespaces: a container has none to give.
const QEMU_CONF: &str = r#"
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "file"
vnc_listen = "127.0.0.1"
"#;

pub struct Daemon {
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Daemon {
    /// Starts one; `None`, with a word on stderr, where that can't be.
    pub fn start() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || !PathBuf::from("/usr/sbin/libvirtd").exists() {
            eprintln!("left out: needs root and libvirtd");
            return None;
        }
        // A short path: a monitor socket's name has a hundred characters at most.
        let directory = tempfile::Builder::new().prefix("hv").tempdir().unwrap();
        for name in ["run", "lib", "cache", "log", "etc/qemu"] {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        let socket_dir = format!("unix_sock_dir = \"{}\"\n", directory.path().display());
        let etc = directory.path().join("etc");
        fs::write(etc.join("libvirtd.conf"), LIBVIRTD_CONF.to_owned() + &socket_dir).unwrap();
        fs::write(etc.join("qemu.conf"), QEMU_CONF).unwrap();
        let mut daemon = Self { directory, child: None };
        daemon.run();
        Some(daemon)
    }

    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    pub fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("libvirt-sock")
    }

    /// Starts the daemon, again after a kill; it finds its domains.
    pub fn run(&mut self) {
        let script = "set -e
            mount --bind $0/run /run/libvirt; mount --bind $0/lib /var/lib/libvirt
            mount --bind $0/cache /var/cache/libvirt; mount --bind $0/log /var/log/libvirt
            mount --bind $0/etc /etc/libvirt
            exec libvirtd -f $0/etc/libvirtd.conf -p $0/libvirtd.pid";
        fs::create_dir_all("/run/libvirt").unwrap();
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(self.directory.path())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.directory.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&self) {
        let started = Instant::now();
        while !Command::new("virsh")
            .args(["-c", &self.uri(), "version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
        {
            let log = fs::read_to_string(self.directory.path().join("stderr"));
            assert!(started.elapsed() < Duration::from_secs(30), "libvirtd doesn't start: {log:?}");
            #[allow(clippy::disallowed_methods, reason = "a test may wait")]
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills the daemon at once. Its guests run on.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal(Signal::SIGCONT);
            let names = Command::new("virsh").args(["-c", &self.uri(), "list", "--name"]).output();
            let names = names.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
            for name in names.unwrap_or_default().split_whitespace() {
                let destroy = ["-c", &self.uri(), "destroy", name].map(str::to_owned);
                Command::new("virsh").args(destroy).output().ok();
            }
            self.kill();
        }
        self.kill_guests_left();
    }
}

impl Daemon {
    /// Ends what a destroy missed, such as a guest in mid-start: by the process ids in this daemon's
    /// own directory, if the process still is a QEMU of these tests.
    fn kill_guests_left(&self) {
        for entry in fs::read_dir(self.path().join("run/qemu")).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "pid") {
                continue;
            }
            let pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
            let Some(pid) = pid else { continue };
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            if command.contains("qemu-system") && command.contains("hypernova-test-") {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
    }
}

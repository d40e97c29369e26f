//! A RabbitMQ of the test's own: Debian's package, private node name, ports, cookie and
//! directories, on the loopback interface. It ends with the test, even one that is killed.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hypernova::rpc::options::RabbitOptions;
use hypernova::rpc::transport_url::TransportUrl;
use tempfile::TempDir;

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const START_WITHIN: Duration = Duration::from_secs(120);

/// How many times as long as said a broker may take to start, as on a slow or busy machine.
fn patience() -> u32 {
    std::env::var("PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Certificates for a broker that speaks TLS.
pub struct TlsFiles<'a> {
    pub ca: &'a Path,
    pub certificate: &'a Path,
    pub key: &'a Path,
    /// Clients must have a certificate.
    pub mutual: bool,
}

/// A broker. [`Broker::stop`] and [`Broker::start`] keep its ports and its data directory.
pub struct Broker {
    pub port: u16,
    pub tls_port: u16,
    epmd_port: u16,
    dist_port: u16,
    node: String,
    dir: TempDir,
    /// Whether it listens on `tls_port` too.
    tls: bool,
    process: Option<Child>,
}

static STARTED: AtomicU32 = AtomicU32::new(0);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

impl Broker {
    /// A running broker, user guest.
    pub fn start_new() -> Self {
        let mut broker = Self::prepare(None, "", "");
        broker.start();
        broker
    }

    /// One that listens with TLS on [`Broker::tls_port`] too.
    pub fn start_with_tls(tls: &TlsFiles<'_>) -> Self {
        Self::start_configured(tls, "", "")
    }

    /// The same with more lines of configuration, and with plugins.
    pub fn start_configured(tls: &TlsFiles<'_>, lines: &str, plugins: &str) -> Self {
        let mut broker = Self::prepare(Some(tls), lines, plugins);
        broker.start();
        broker
    }

    fn prepare(tls: Option<&TlsFiles<'_>>, lines: &str, plugins: &str) -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new().prefix("hypernova-rabbit-").tempdir().unwrap();
        let broker = Self {
            port: free_port(),
            tls_port: free_port(),
            epmd_port: free_port(),
            dist_port: free_port(),
            node: format!("hypernova{}x{number}@localhost", std::process::id()),
            dir,
            tls: tls.is_some(),
            process: None,
        };
        let mut config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nloopback_users.guest = true\n\
             vm_memory_high_watermark.absolute = 512MB\ndisk_free_limit.absolute = 1MB\n\
             log.console = false\nlog.file = rabbit.log\n{lines}",
            broker.port
        );
        if let Some(tls) = tls {
            config += &format!(
                "listeners.ssl.1 = 127.0.0.1:{}\nssl_options.cacertfile = {}\n\
                 ssl_options.certfile = {}\nssl_options.keyfile = {}\nssl_options.verify = {}\n\
                 ssl_options.fail_if_no_peer_cert = {}\n",
                broker.tls_port,
                broker.adopt(tls.ca, "ca.pem"),
                broker.adopt(tls.certificate, "server.pem"),
                broker.adopt(tls.key, "server.key"),
                if tls.mutual { "verify_peer" } else { "verify_none" },
                tls.mutual,
            );
        }
        fs::write(broker.dir.path().join("rabbitmq.conf"), config).unwrap();
        fs::write(broker.dir.path().join("plugins"), format!("[{plugins}].")).unwrap();
        for name in ["data", "log"] {
            fs::create_dir(broker.dir.path().join(name)).unwrap();
        }
        if is_root() {
            let path = broker.dir.path();
            assert!(
                Command::new("chown")
                    .args(["-R", "rabbitmq:"])
                    .arg(path)
                    .status()
                    .unwrap()
                    .success()
            );
        }
        broker
    }

    fn adopt(&self, from: &Path, name: &str) -> String {
        let to = self.dir.path().join(name);
        fs::copy(from, &to).unwrap();
        to.display().to_string()
    }

    /// Starts it and waits until it serves.
    pub fn start(&mut self) {
        let dir = self.dir.path();
        // The shell ends the node and its port mapper when it is told to, and also when our end of
        // its input closes: whatever way this process ends, nothing of the broker is left. Once a minute
        // a node has a small Erlang look after epmd, which may outlive it and would start another epmd.
        let script = format!(
            "epmd -port {port} -address 127.0.0.1 & epmd=$!; \
             until epmd -port {port} -names; do sleep 0.05; done; \
             {SERVER} </dev/null & node=$!; read -r order; kill $node; wait $node; \
             for i in $(seq 200); do pgrep -f -- \"-home $HOME\" || break; sleep 0.05; done; kill $epmd; \
             [ \"$order\" = keep ] || rm -rf '{dir}'",
            port = self.epmd_port,
            dir = dir.display()
        );
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=rabbitmq", "--regid=rabbitmq", "--init-groups", "sh", "-c"]);
            command
        } else {
            let mut command = Command::new("sh");
            command.arg("-c");
            command
        };
        let output = fs::File::create(dir.join("output")).unwrap();
        let child = command
            .arg(script)
            .current_dir(dir)
            .env("HOME", dir)
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", dir.join("data"))
            .env("RABBITMQ_LOG_BASE", dir.join("log"))
            .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"))
            .env("RABBITMQ_PID_FILE", dir.join("pid"))
            // Of the machine's cores the tests need some too.
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+sbwt none +sbwtdcpu none +sbwtdio none")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .expect("setpriv, sh and rabbitmq-server are installed");
        self.process = Some(child);
        let url = TransportUrl::parse(&self.url()).unwrap();
        let deadline = Instant::now() + START_WITHIN * patience();
        // The TLS listener comes up after the other one.
        let tls = self.tls.then_some(("127.0.0.1", self.tls_port));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        // Its own thread: a caller may be inside a runtime of its own.
        let waiting = std::thread::spawn(move || {
            runtime.block_on(async {
                while Instant::now() < deadline {
                    let found = hypernova::rpc::bus::probe(&url, &RabbitOptions::default()).await;
                    if found.is_ok_and(|found| found.iter().all(|(_, result)| result.is_ok()))
                        && tls.is_none_or(|address| TcpStream::connect(address).is_ok())
                    {
                        return true;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                false
            })
        });
        assert!(waiting.join().unwrap(), "no broker: {}", self.output());
    }

    fn output(&self) -> String {
        fs::read_to_string(self.dir.path().join("output")).unwrap_or_default()
    }

    /// Stops it, and returns when its ports are free.
    pub fn stop(&mut self) {
        let Some(mut child) = self.process.take() else { return };
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(b"keep\n").ok();
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if child.try_wait().unwrap().is_some() {
                return;
            }
            #[allow(clippy::disallowed_methods, reason = "a test may wait")]
            std::thread::sleep(Duration::from_millis(50));
        }
        // The group is the shell's and what it started.
        let group = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).ok();
        child.wait().unwrap();
    }

    pub fn url(&self) -> String {
        format!("rabbit://guest:guest@127.0.0.1:{}/", self.port)
    }

    pub fn tls_url(&self, query: &str) -> String {
        format!("rabbit://guest:guest@127.0.0.1:{}/?ssl=1{query}", self.tls_port)
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log/rabbit.log")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

//! What the image tests share: tools, patterns, a web server that misbehaves on demand.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hypernova::images::source::{FilePolicy, StandaloneSource};
use hypernova::images::store::{HostImages, StoreOptions};
use hypernova::images::{Checksum, ImageRequest, Progress};
use sha2::Digest;

/// Bytes that repeat nowhere soon and look like no format.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(length);
    bytes
}

pub fn silent() -> Progress<'static> {
    &|_, _| ()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha1(text: &str) -> String {
    hex(&sha1::Sha1::digest(text.as_bytes()))
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

pub fn image(path: &Path, format: &str) -> ImageRequest {
    ImageRequest {
        id: path.display().to_string(),
        url: Some(format!("file://{}", path.display())),
        disk_format: Some(format.into()),
        checksums: vec![],
        size: None,
        any_file: false,
    }
}

pub fn with_sha256(mut image: ImageRequest, content: &[u8]) -> ImageRequest {
    image.checksums.push(Checksum { algorithm: "sha256".into(), value: sha256(content) });
    image
}

pub fn options(dir: &tempfile::TempDir) -> StoreOptions {
    StoreOptions::new(dir.path().join("instances"))
}

pub fn host_images(dir: &tempfile::TempDir) -> HostImages {
    let source = StandaloneSource::new(FilePolicy::Any, Duration::from_secs(30));
    HostImages::new(options(dir), Arc::new(source)).unwrap()
}

pub fn qemu_img(args: &[&str], paths: &[&Path]) {
    let out = Command::new("qemu-img").args(args).args(paths).output().unwrap();
    assert!(out.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

pub fn info(path: &Path, format: &str) -> serde_json::Value {
    let out = Command::new("qemu-img")
        .args(["info", "-U", "-f", format, "--output=json"])
        .arg(path)
        .output()
        .unwrap();
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The names in a directory, sorted; none when it isn't there.
pub fn leftovers(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A small file system, gone when dropped. Needs root.
pub struct Tmpfs {
    pub path: PathBuf,
}

impl Tmpfs {
    pub fn mount(path: &Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "hypernova-test"])
            .arg(path)
            .output()
            .unwrap();
        assert!(out.status.success(), "needs root: {}", String::from_utf8_lossy(&out.stderr));
        Self { path: path.to_owned() }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.path).status().unwrap().success());
    }
}

/// How a server misbehaves.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// Breaks each connection off after so many bytes of body.
    pub break_after: Option<usize>,
    /// Falls silent after so many.
    pub stall_after: Option<usize>,
    /// Waits before each 64 KiB.
    pub pause: Option<Duration>,
    /// Another ETag with each answer: ranges never match.
    pub change_tag: bool,
}

struct Shared {
    content: Vec<u8>,
    behaviour: Behaviour,
    requests: AtomicUsize,
    sent: AtomicU64,
    ranges: Mutex<Vec<usize>>,
    stop: AtomicBool,
}

/// A web server with one content, on a loopback port of its own.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    pub fn start(content: Vec<u8>, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            content,
            behaviour,
            requests: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            ranges: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if for_thread.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&for_thread);
                // A client that goes away is its own business.
                std::thread::spawn(move || serve(&shared, connection.unwrap()).ok());
            }
        });
        Self { address, shared }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Bytes of body in all.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// The offsets that were asked for by range.
    pub fn ranges(&self) -> Vec<usize> {
        self.shared.ranges.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        TcpStream::connect(self.address).ok();
    }
}

/// One request, one answer, one connection.
fn serve(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut headers = Vec::new();
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        headers.push(line);
    }
    let header = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name));
    let count = shared.requests.fetch_add(1, Ordering::Relaxed);
    let path = request.split(' ').nth(1).unwrap_or("/");
    let simple =
        |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n");
    let special = match path {
        "/404" => Some(simple("404 Not Found")),
        "/500" => Some(simple("500 Oh No")),
        "/redirect" => Some(simple("302 Found") + "Location: /image\r\n"),
        "/redirect-to-file" => Some(simple("302 Found") + "Location: file:///etc/passwd\r\n"),
        "/redirect-loop" => Some(simple("302 Found") + "Location: /redirect-loop\r\n"),
        _ => None,
    };
    if let Some(answer) = special {
        return stream.write_all(format!("{answer}\r\n").as_bytes());
    }
    let tag = if shared.behaviour.change_tag { format!("\"{count}\"") } else { "\"v1\"".into() };
    let offset =
        header("range: bytes=").and_then(|r| r.trim_end_matches('-').parse::<usize>().ok());
    let matches = header("if-range: ").is_none_or(|theirs| theirs == tag);
    let total = shared.content.len();
    let start = match offset {
        Some(offset) if matches => {
            shared.ranges.lock().unwrap().push(offset);
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {offset}-{}/{total}\r\n",
                total - 1
            )?;
            offset
        }
        _ => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
            0
        }
    };
    let body = &shared.content[start..];
    write!(stream, "ETag: {tag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    let limit = shared.behaviour.break_after.or(shared.behaviour.stall_after).unwrap_or(usize::MAX);
    for piece in body[..body.len().min(limit)].chunks(65536) {
        if let Some(pause) = shared.behaviour.pause {
            #[allow(clippy::disallowed_methods, reason = "the server is to be slow")]
            std::thread::sleep(pause);
        }
        stream.write_all(piece)?;
        shared.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    if shared.behaviour.stall_after.is_some() {
        // Until the client gives up.
        stream.flush()?;
        std::io::Read::read(&mut stream, &mut [0; 1])?;
    }
    Ok(())
}

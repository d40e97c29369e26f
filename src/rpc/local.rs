//! The same requests over a Unix socket: the commands drive the agent as nova does. An envelope a
//! line; answers come back on the connection, told apart by `_msg_id`.
//!
//! Only root and the agent's own user get in, and the members of a group if one is named: the
//! socket's mode says so. Without a group the peer's credentials are looked at again.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use nix::unistd::{Gid, Group};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::model::class::Class;
use crate::model::context::RequestContext;
use crate::rpc::client::{CallError, Target, Wait};
use crate::rpc::envelope::{
    self, EnvelopeError, ReceivedRequest, Reply, ReplyAddress, RpcRequest, new_id,
};
use crate::rpc::failure::Fault;
use crate::rpc::incoming::{Ack, Incoming, ReplySink, ReplyTo, Source};

/// A line may be so long. User data is the largest thing a request holds, and nova allows 64 KiB.
const MAX_MESSAGE: u64 = 16 * 1024 * 1024;
/// The reply queue's name in a request: there is only the connection.
const HERE: &str = "local";

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("another agent serves {}", path.display())]
    InUse { path: PathBuf },
    #[error("there is no group {group} to open the socket to")]
    NoGroup { group: String },
    #[error("cannot listen on {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot reach the agent at {}; is it running?", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl LocalError {
    pub fn class(&self) -> Class {
        match self {
            Self::InUse { .. } | Self::NoGroup { .. } | Self::Listen { .. } => Class::Refused,
            Self::Connect { .. } => Class::Transient,
        }
    }
}

/// A socket that requests come through.
#[derive(Debug)]
pub struct LocalServer {
    listener: UnixListener,
    path: PathBuf,
    /// Whose members the kernel lets in too.
    group: Option<Gid>,
}

impl LocalServer {
    /// Makes the socket, mode 0600 or, with a `group`, 0660, from its first moment. What an agent
    /// that was killed left at `path` is replaced; a living one's socket is not.
    ///
    /// # Errors
    /// `InUse` when somebody answers there already; `NoGroup`; `Listen` for everything else.
    pub async fn listen(path: &Path, group: Option<&str>) -> Result<Self, LocalError> {
        let failed = |source| LocalError::Listen { path: path.to_owned(), source };
        let group = group.map(find_group).transpose()?;
        if UnixStream::connect(path).await.is_ok() {
            return Err(LocalError::InUse { path: path.to_owned() });
        }
        // Under another name until its mode is right. The rename replaces a stale socket.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        let permit = |mode| std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode));
        permit(0o600).map_err(failed)?;
        if let Some(group) = group {
            chown(&fresh, None, Some(group.as_raw())).map_err(failed)?;
            permit(0o660).map_err(failed)?;
        }
        std::fs::rename(&fresh, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), group })
    }

    /// Delivers what comes in to `handler` until `stop`; then answers that are under way still go
    /// out, and the socket is removed.
    pub async fn serve(self, handler: mpsc::Sender<Incoming>, stop: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => match admitted(&stream, self.group) {
                    Ok(uid) => {
                        let connection = converse(stream, uid, handler.clone(), stop.clone());
                        connections.spawn(connection);
                    }
                    Err(error) => warn!(%error, "a peer of the local socket was turned away"),
                },
                Err(error) => {
                    // Out of descriptors, most likely: some will come back.
                    warn!(%error, "no connection could be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
            }
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, "the local socket was gone already");
        }
        connections.close();
        connections.wait().await;
    }
}

fn find_group(name: &str) -> Result<Gid, LocalError> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        _ => Err(LocalError::NoGroup { group: name.to_owned() }),
    }
}

/// The peer's user, if it may speak to us. With a group it is the kernel that looked at all of the
/// peer's groups.
fn admitted(stream: &UnixStream, group: Option<Gid>) -> io::Result<u32> {
    let uid = stream.peer_cred()?.uid();
    if uid == 0 || uid == nix::unistd::geteuid().as_raw() || group.is_some() {
        return Ok(uid);
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("uid {uid}")))
}

/// Answers on their way to one connection. The connection's task ends when all of them are dropped.
struct Answers(mpsc::UnboundedSender<Vec<u8>>);

#[async_trait]
impl ReplySink for Answers {
    fn answer(&self, message: Map<String, Value>) {
        if self.0.send(envelope::seal(&message)).is_err() {
            debug!("a caller at the local socket left before its answer");
        }
    }

    async fn heartbeat(&self, message: Map<String, Value>) -> bool {
        self.0.send(envelope::seal(&message)).is_ok()
    }
}

async fn converse(
    stream: UnixStream,
    peer_uid: u32,
    handler: mpsc::Sender<Incoming>,
    stop: CancellationToken,
) {
    let (reader, writer) = stream.into_split();
    let (answers, outgoing) = mpsc::unbounded_channel();
    let writing = tokio::spawn(write_lines(writer, outgoing));
    let sink = Arc::new(Answers(answers));
    tokio::select! {
        () = read_requests(reader, peer_uid, &handler, sink) => {}
        () = stop.cancelled() => {}
    }
    // It ends with the last answer that is owed, or with the peer.
    writing.await.ok();
}

async fn read_requests(
    reader: OwnedReadHalf,
    peer_uid: u32,
    handler: &mpsc::Sender<Incoming>,
    sink: Arc<Answers>,
) {
    let mut reader = BufReader::new(reader);
    loop {
        let message = match read_line(&mut reader).await {
            Ok(Some(line)) => envelope::open(&line).map_err(|error| error.to_string()),
            Ok(None) => return,
            Err(error) => Err(error.to_string()),
        };
        let message = match message {
            Ok(message) => message,
            // Where the next message starts is anybody's guess.
            Err(error) => {
                return warn!(error, peer_uid, "a message at the local socket was refused");
            }
        };
        match ReceivedRequest::read(message) {
            Ok(ReceivedRequest { request, context, reply }) => {
                let reply =
                    reply.map(|address| ReplyTo::new(&address, sink.clone(), &Handle::current()));
                let source = Source::Local { peer_uid };
                let incoming = Incoming { request, context, reply, ack: Ack::none(), source };
                // Dropped, it answers that it was dropped.
                if handler.send(incoming).await.is_err() {
                    return;
                }
            }
            Err(broken) => {
                warn!(
                    reason = broken.reason,
                    peer_uid, "a request at the local socket was refused"
                );
                if let Some(address) = broken.reply {
                    let fault = Fault::builtin("ValueError", broken.reason);
                    sink.answer(envelope::final_reply(&address.msg_id, Err(fault)));
                }
            }
        }
    }
}

async fn write_lines(mut writer: OwnedWriteHalf, mut lines: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(mut line) = lines.recv().await {
        line.push(b'\n');
        if let Err(error) = writer.write_all(&line).await {
            return debug!(%error, "a peer of the local socket left");
        }
    }
}

/// The next line without its end; `None` at the end of the stream.
async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(MAX_MESSAGE + 1).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() as u64 >= MAX_MESSAGE => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"))
        }
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A command's connection to the agent. One request at a time.
#[derive(Debug)]
pub struct LocalClient {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl LocalClient {
    pub async fn connect(path: &Path) -> Result<Self, LocalError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| LocalError::Connect { path: path.to_owned(), source })?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: BufReader::new(reader), writer })
    }

    /// Asks and waits for the answer. Of `target`, the namespace and the version count.
    ///
    /// # Cancel safety
    /// Not: after a drop in the middle, connect anew.
    pub async fn call(
        &mut self,
        target: &Target,
        method: &str,
        args: Map<String, Value>,
        context: &RequestContext,
        wait: Wait,
    ) -> Result<Value, CallError> {
        let deadline = Instant::now() + wait.timeout;
        let address =
            ReplyAddress { msg_id: new_id(), reply_queue: HERE.to_owned(), monitor: wait.monitor };
        let lost = |reason: String| CallError::Transport {
            method: method.to_owned(),
            topic: target.topic.clone(),
            reason,
        };
        let late = |after| CallError::Timeout {
            method: method.to_owned(),
            topic: target.topic.clone(),
            after,
        };
        let msg_id = address.msg_id.clone();
        self.send(target, method, args, context, Some(address))
            .await
            .map_err(|error| lost(error.to_string()))?;
        loop {
            let heard_by = match wait.monitor {
                Some(monitor) => deadline.min(Instant::now() + monitor),
                None => deadline,
            };
            let line = match timeout_at(heard_by, read_line(&mut self.reader)).await {
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) => return Err(lost("the agent closed the connection".into())),
                Ok(Err(error)) => return Err(lost(error.to_string())),
                Err(_) if heard_by < deadline => {
                    return Err(late(wait.monitor.unwrap_or(wait.timeout)));
                }
                Err(_) => return Err(late(wait.timeout)),
            };
            let reply = envelope::open(&line)
                .and_then(Reply::read)
                .map_err(|error: EnvelopeError| lost(error.to_string()))?;
            // Another one answers a call that was given up.
            if reply.msg_id == msg_id && reply.ending {
                return reply.outcome.map_err(|failure| CallError::Remote(Box::new(failure)));
            }
        }
    }

    /// Sends, and doesn't learn what came of it.
    pub async fn cast(
        &mut self,
        target: &Target,
        method: &str,
        args: Map<String, Value>,
        context: &RequestContext,
    ) -> Result<(), CallError> {
        self.send(target, method, args, context, None).await.map_err(|error| CallError::Transport {
            method: method.to_owned(),
            topic: target.topic.clone(),
            reason: error.to_string(),
        })
    }

    async fn send(
        &mut self,
        target: &Target,
        method: &str,
        args: Map<String, Value>,
        context: &RequestContext,
        reply: Option<ReplyAddress>,
    ) -> io::Result<()> {
        let mut request = RpcRequest::new(method, &target.version, args);
        request.namespace = target.namespace.clone();
        let message = ReceivedRequest { request, context: context.clone(), reply };
        let mut line = envelope::seal(&message.write());
        line.push(b'\n');
        self.writer.write_all(&line).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    async fn served() -> (TempDir, PathBuf, mpsc::Receiver<Incoming>, CancellationToken) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("sock");
        let server = LocalServer::listen(&path, None).await.unwrap();
        let (handler, requests) = mpsc::channel(4);
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(handler, stop.clone()));
        (dir, path, requests, stop)
    }

    fn target() -> Target {
        Target::new("compute", "6.0")
    }

    const WAIT: Wait = Wait { timeout: Duration::from_secs(20), monitor: None };

    #[tokio::test]
    async fn a_call_and_a_cast_arrive_and_the_call_is_answered() {
        let (_dir, path, mut requests, _stop) = served().await;
        let handling = tokio::spawn(async move {
            let cast = requests.recv().await.unwrap();
            let call = requests.recv().await.unwrap();
            assert!(cast.reply.is_none());
            let uid = nix::unistd::geteuid().as_raw();
            assert_eq!(call.source, Source::Local { peer_uid: uid });
            call.reply.unwrap().send(Ok(json!({"method": call.request.method})));
            cast.request.method
        });
        let mut client = LocalClient::connect(&path).await.unwrap();
        let context = RequestContext::admin();
        client.cast(&target(), "first", Map::new(), &context).await.unwrap();
        let answer = client.call(&target(), "second", Map::new(), &context, WAIT).await.unwrap();
        assert_eq!(answer, json!({"method": "second"}));
        assert_eq!(handling.await.unwrap(), "first");
    }

    #[tokio::test]
    async fn a_failure_and_a_dropped_call_reach_the_caller() {
        let (_dir, path, mut requests, _stop) = served().await;
        tokio::spawn(async move {
            let fault = Fault::nova("InstanceNotFound", "no");
            requests.recv().await.unwrap().reply.unwrap().send(Err(fault));
            drop(requests.recv().await.unwrap());
        });
        let mut client = LocalClient::connect(&path).await.unwrap();
        for class in ["InstanceNotFound", "NovaException"] {
            let context = RequestContext::admin();
            match client.call(&target(), "m", Map::new(), &context, WAIT).await {
                Err(CallError::Remote(failure)) => assert!(failure.is_nova(class), "{failure}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_alone_and_a_stale_one_is_replaced() {
        let (_dir, path, _requests, stop) = served().await;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(LocalServer::listen(&path, None).await, Err(LocalError::InUse { .. })));
        stop.cancel();
        let other = path.with_extension("stale");
        drop(std::os::unix::net::UnixListener::bind(&other).unwrap());
        LocalServer::listen(&other, None).await.unwrap();
    }

    #[tokio::test]
    async fn the_socket_is_open_to_a_group_that_is_named() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("sock");
        let own = Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
        let _server = LocalServer::listen(&path, Some(&own.name)).await.unwrap();
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!(made.permissions().mode() & 0o777, 0o660);
        assert_eq!(made.gid(), own.gid.as_raw());
        let refused = LocalServer::listen(&path.with_extension("2"), Some("no such group")).await;
        assert!(matches!(refused, Err(LocalError::NoGroup { .. })));
    }

    #[tokio::test]
    async fn garbage_ends_its_connection_and_no_other() {
        let (_dir, path, mut requests, _stop) = served().await;
        let mut bad = UnixStream::connect(&path).await.unwrap();
        bad.write_all(b"not json\n").await.unwrap();
        assert_eq!(bad.read(&mut [0; 8]).await.unwrap(), 0);
        let mut broken = UnixStream::connect(&path).await.unwrap();
        broken.write_all(b"{\"_msg_id\": \"1\", \"_reply_q\": \"local\"}\n").await.unwrap();
        let mut line = String::new();
        BufReader::new(broken).read_line(&mut line).await.unwrap();
        assert!(line.contains("ValueError"), "{line}");
        let mut client = LocalClient::connect(&path).await.unwrap();
        client.cast(&target(), "m", Map::new(), &RequestContext::admin()).await.unwrap();
        assert_eq!(requests.recv().await.unwrap().request.method, "m");
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut_off_at_the_limit() {
        let (_dir, path, _requests, _stop) = served().await;
        let mut bad = UnixStream::connect(&path).await.unwrap();
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..17 {
            if bad.write_all(&chunk).await.is_err() {
                break;
            }
        }
        let read = bad.read(&mut [0; 8]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}

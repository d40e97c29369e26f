//! The socket under lapin: plain or TLS, with a deadline on unanswered data, and a handle that cuts
//! it from outside.
//!
//! lapin takes its sockets from an `async_rs` reactor. [`Wires`] is tokio's, with [`Wire`] in the
//! place of its socket, so that TLS follows [`crate::rpc::tls`] instead of lapin's own rules.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_core::Stream;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The runtime that lapin runs on.
pub(crate) type WireRuntime = Runtime<RuntimeParts<Tokio, Wires>>;

/// Tokio's, for the runtime we are in.
pub(crate) fn runtime() -> WireRuntime {
    Runtime::new(RuntimeParts::new(Tokio::current(), Wires(Tokio::current())))
}

/// A connection to a broker.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// Connects, and shakes hands where `tls` is given. `silence` bounds how long sent data may
    /// stay unacknowledged before the kernel gives the connection up; zero leaves it to the kernel.
    pub(crate) async fn connect(
        hostname: &str,
        port: u16,
        tls: Option<Arc<ClientConfig>>,
        silence: Duration,
        slot: &Slot,
    ) -> io::Result<Self> {
        let tcp = TcpStream::connect((hostname, port)).await?;
        tcp.set_nodelay(true)?;
        if !silence.is_zero() {
            let milliseconds = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
            nix::sys::socket::setsockopt(
                &tcp,
                nix::sys::socket::sockopt::TcpUserTimeout,
                &milliseconds,
            )?;
        }
        slot.hold(&tcp)?;
        match tls {
            None => Ok(Self::Plain(tcp)),
            Some(config) => {
                let name = ServerName::try_from(hostname.to_owned())
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                let stream = TlsConnector::from(config).connect(name, tcp).await?;
                Ok(Self::Tls(Box::new(stream)))
            }
        }
    }
}

/// Cuts a socket, whoever holds it: lapin's thread ends only when its socket does. Dropped, it
/// cuts; so no connection, finished or half made, outlives who asked for it.
#[derive(Debug, Default)]
pub(crate) struct Cutter(Arc<Mutex<Held>>);

/// The cutter's place, for the closure that makes the socket.
#[derive(Debug, Clone)]
pub(crate) struct Slot(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    tcp: Option<std::net::TcpStream>,
    cut: bool,
}

impl Cutter {
    pub(crate) fn slot(&self) -> Slot {
        Slot(self.0.clone())
    }

    /// Idempotent. A socket that is made after it is cut at once.
    pub(crate) fn cut(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.cut = true;
        if let Some(tcp) = held.tcp.take() {
            // Already disconnected is as good.
            tcp.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Slot {
    fn hold(&self, tcp: &TcpStream) -> io::Result<()> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.cut {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        held.tcp = Some(tcp.as_fd().try_clone_to_owned()?.into());
        Ok(())
    }
}

/// Tokio's reactor, with our sockets.
#[derive(Debug, Clone)]
pub(crate) struct Wires(Tokio);

impl Reactor for Wires {
    type TcpStream = Wire;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static>
    {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    // lapin connects through the closure we give it; this is the trait's plain way.
    #[expect(clippy::manual_async_fn, reason = "the future must not borrow the reactor")]
    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Wire>> + Send + 'static {
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok(Wire::Plain(tcp))
        }
    }
}

impl futures_io::AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(buffer);
        let polled = match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, &mut into),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, &mut into),
        };
        polled.map_ok(|()| into.filled().len())
    }
}

impl futures_io::AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buffer),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, buffer),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, buffers),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, buffers),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_io::AsyncRead as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_cut_socket_reads_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cutter = Cutter::default();
        let slot = cutter.slot();
        let connect = Wire::connect("127.0.0.1", port, None, Duration::from_secs(5), &slot);
        let mut wire = connect.await.unwrap();
        let _peer = listener.accept().await.unwrap();
        let mut buffer = [0; 8];
        let pending = std::future::poll_fn(|cx| {
            Poll::Ready(Pin::new(&mut wire).poll_read(cx, &mut buffer).is_pending())
        });
        assert!(pending.await);
        cutter.cut();
        let read = std::future::poll_fn(|cx| Pin::new(&mut wire).poll_read(cx, &mut buffer)).await;
        assert_eq!(read.unwrap(), 0);
        cutter.cut();
    }
}

//! What signals mean to the agent. A process of its own: signals reach every listener in one.
#![allow(clippy::unwrap_used)]

use hypernova::service::Signals;
use nix::sys::signal::{Signal, raise};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn hangup_reloads_and_the_first_stop_signal_is_gentle() {
    let signals = Signals::listen().unwrap();
    let (stop, stop_now) = (CancellationToken::new(), CancellationToken::new());
    let (reload, mut reloads) = mpsc::unbounded_channel();
    let task = tokio::spawn(signals.handle(stop.clone(), stop_now.clone(), move || {
        reload.send(()).unwrap();
    }));
    raise(Signal::SIGHUP).unwrap();
    reloads.recv().await.unwrap();
    assert!(!stop.is_cancelled());
    raise(Signal::SIGTERM).unwrap();
    stop.cancelled().await;
    assert!(!stop_now.is_cancelled());
    raise(Signal::SIGINT).unwrap();
    stop_now.cancelled().await;
    task.await.unwrap();
    assert!(reloads.recv().await.is_none());
}

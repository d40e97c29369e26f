//! The agent as a service: what systemd is told, and what signals mean.
//!
//! Without systemd everything here does nothing but listen to signals.

use std::future::Future;
use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

type Send = Box<dyn Fn(&[NotifyState<'_>]) -> io::Result<()> + std::marker::Send + Sync>;

/// systemd, as far as it wants to hear from us. sd_notify(3).
pub struct ServiceManager {
    send: Send,
    /// How long systemd waits for a sign of life before it kills us.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// From `$NOTIFY_SOCKET` and `$WATCHDOG_USEC`; without them nobody is told anything.
    pub fn from_environment() -> Self {
        Self { send: Box::new(sd_notify::notify), watchdog: sd_notify::watchdog_enabled() }
    }

    /// The agent takes requests.
    pub fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// A line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// The configuration is being read again; [`ServiceManager::ready`] ends that.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    /// The agent takes no more requests and ends soon.
    pub fn stopping(&self, status: &str) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Gives systemd signs of life, twice in its interval, for as long as `is_alive` says so in
    /// time. Otherwise systemd kills and restarts the agent, which resumes its workflows. Ends
    /// with `stop`; at once when systemd asked for none.
    pub async fn keep_alive<F, A>(&self, is_alive: F, stop: CancellationToken)
    where
        F: Fn() -> A,
        A: Future<Output = bool>,
    {
        let Some(watchdog) = self.watchdog.filter(|interval| !interval.is_zero()) else { return };
        let half = watchdog / 2;
        let mut ticks = interval(half);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let work = async {
            loop {
                ticks.tick().await;
                match timeout(half, is_alive()).await {
                    Ok(true) => self.tell(&[NotifyState::Watchdog]),
                    Ok(false) => warn!("the agent is not alive: no sign of life to systemd"),
                    Err(_) => warn!(after = ?half, "no word whether the agent is alive"),
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        if let Err(error) = (self.send)(state) {
            debug!(%error, "systemd can't be told");
        }
    }
}

/// The signals that the agent listens to.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on these signals don't end the process. In a tokio runtime only.
    ///
    /// # Errors
    /// The operating system's.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// SIGHUP calls `reload`; the first SIGTERM or SIGINT cancels `stop`, the second one
    /// `stop_now` and ends this.
    pub async fn handle(
        mut self,
        stop: CancellationToken,
        stop_now: CancellationToken,
        mut reload: impl FnMut(),
    ) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    info!("reload requested");
                    reload();
                    continue;
                }
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                info!("second stop signal");
                stop_now.cancel();
                return;
            }
            info!("stop requested");
            stop.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use tokio::time::sleep;

    use super::*;

    type Told = Arc<Mutex<Vec<String>>>;

    fn manager(watchdog: Option<Duration>) -> (ServiceManager, Told) {
        let told = Told::default();
        let into = told.clone();
        let send: Send = Box::new(move |state| {
            let lines: Vec<_> = state.iter().map(ToString::to_string).collect();
            into.lock().unwrap().push(lines.join(" "));
            Ok(())
        });
        (ServiceManager { send, watchdog }, told)
    }

    #[test]
    fn systemd_hears_each_state_with_its_status() {
        let (manager, told) = manager(None);
        manager.ready("up");
        manager.reloading();
        manager.stopping("going");
        let told = told.lock().unwrap();
        assert_eq!(told[0], "READY=1 STATUS=up");
        assert!(told[1].starts_with("RELOADING=1 MONOTONIC_USEC="), "{}", told[1]);
        assert_eq!(told[2], "STOPPING=1 STATUS=going");
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_end_when_the_agent_is_not_alive() {
        let (manager, told) = manager(Some(Duration::from_secs(10)));
        let alive = Arc::new(AtomicBool::new(true));
        let asked = alive.clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let is_alive = || std::future::ready(asked.load(Ordering::SeqCst));
            manager.keep_alive(is_alive, stopped).await;
        });
        sleep(Duration::from_secs(22)).await;
        assert_eq!(*told.lock().unwrap(), ["WATCHDOG=1"; 5]);
        alive.store(false, Ordering::SeqCst);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(told.lock().unwrap().len(), 5);
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_is_no_sign_of_life() {
        let (manager, told) = manager(Some(Duration::from_secs(10)));
        let hang = manager.keep_alive(std::future::pending::<bool>, CancellationToken::new());
        assert!(timeout(Duration::from_secs(60), hang).await.is_err());
        assert!(told.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn without_a_watchdog_there_is_nothing_to_keep_alive() {
        let (manager, told) = manager(None);
        manager.keep_alive(|| std::future::ready(true), CancellationToken::new()).await;
        assert!(told.lock().unwrap().is_empty());
    }
}

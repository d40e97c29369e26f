//! A network namespace for a test.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

const INSIDE: &str = "HYPERNOVA_TEST_IN_NAMESPACE";

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Runs `work` in a network namespace that is made for it and removed again: this test's own
/// program is started anew inside, as `ip netns exec` mounts the `/sys` that goes with it.
pub fn in_namespace(test: &str, work: impl AsyncFnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(work());
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let namespace = Namespace(format!("hn-test-{}-{number}", std::process::id()));
    ip(&format!("netns add {}", namespace.0));
    let program = std::env::current_exe().unwrap();
    let status = Command::new("ip")
        .args(["netns", "exec", &namespace.0])
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "inside the namespace");
}

struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("netns delete {}", self.0));
    }
}

pub fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// Runs a program to its end and returns what it wrote; a failure is the test's.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} (tests/install.sh test): {error}"));
    let message = String::from_utf8_lossy(&output.stderr);
    let well = output.status.success() || std::thread::panicking();
    assert!(well, "{program} {}: {message}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

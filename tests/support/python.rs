//! Python scripts of `tests/python/`, which speak JSON lines: the real oslo.messaging on the other
//! end.

use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python")
}

/// The interpreter that has oslo.messaging; made by the first who asks.
pub fn interpreter() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let made = StdCommand::new(directory().join("venv.sh"))
            .stderr(Stdio::inherit())
            .output()
            .expect("tests/python/venv.sh runs");
        assert!(made.status.success(), "tests/python/venv.sh failed");
        PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
    })
}

/// A running script. It is killed when this is dropped.
pub struct Script {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    seen: Vec<Value>,
    next_id: u64,
}

impl Script {
    /// Starts a script and waits until it says that it is ready.
    pub async fn start(name: &str, arguments: &[&str]) -> Self {
        let python = tokio::task::spawn_blocking(interpreter).await.unwrap();
        let mut child = Command::new(python)
            .arg("-W")
            .arg("ignore")
            .arg(directory().join(name))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the interpreter starts");
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut script = Self { _child: child, input, output, seen: Vec::new(), next_id: 0 };
        script.wait_for(|line| line["ready"] == true).await;
        script
    }

    /// Sends an order under a new id, which is returned.
    pub async fn order(&mut self, mut order: Value) -> u64 {
        self.next_id += 1;
        order["id"] = json!(self.next_id);
        self.input.write_all(format!("{order}\n").as_bytes()).await.unwrap();
        self.next_id
    }

    /// What came of an order.
    pub async fn outcome(&mut self, id: u64) -> Value {
        self.wait_for(|line| line["id"] == id).await
    }

    /// Orders and waits.
    pub async fn ask(&mut self, order: Value) -> Value {
        let id = self.order(order).await;
        self.outcome(id).await
    }

    /// The first line, of now or of earlier, that is wanted; each is found once.
    pub async fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.seen.iter().position(&wanted) {
            return self.seen.remove(index);
        }
        loop {
            let line = timeout(Duration::from_secs(90), self.output.next_line())
                .await
                .expect("the script says something")
                .unwrap()
                .expect("the script lives");
            // What isn't JSON is Python's own chatter.
            let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
            if wanted(&line) {
                return line;
            }
            self.seen.push(line);
        }
    }

    /// Lines that nobody has asked for so far.
    pub fn unseen(&self) -> &[Value] {
        &self.seen
    }
}

//! The program itself, to be killed: what campaigns of kills share.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

/// The beginning of a configuration: listeners on port 0, and a store beside the file.
pub const STORE: &str = "\
listeners: [{ name: web, address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:0 }
telemetry: { access_log: { path: off } }
queue: { dir: data, disk: { low_water: 0%, min_free: 8MiB, reserve: 4MiB } }
";

/// By then what a failing disk broke is mended, on a busy machine.
pub const BACK: Duration = Duration::from_secs(90);

/// The program, and what it says of itself.
pub struct Program {
    child: Killed,
    pub admin: SocketAddr,
    pub web: SocketAddr,
    /// How long it took until it was ready.
    pub opened: Duration,
}

/// Gets SIGKILL when it is dropped.
struct Killed(Child);

/// A listener, which is asked one thing on a connection.
pub struct Connection(pub SocketAddr);

/// The number that a campaign was asked for with `SLUICE_CAMPAIGN`, or the usual one.
pub fn rounds(usual: u64) -> u64 {
    std::env::var("SLUICE_CAMPAIGN").ok().and_then(|it| it.parse().ok()).unwrap_or(usual)
}

/// One life: `clients` work, each on a thread, until the program is killed and they notice, or are told.
/// What each has come to.
pub fn live<T: Send>(
    program: Program,
    span: Duration,
    clients: impl IntoIterator<Item = impl FnOnce(&AtomicBool) -> T + Send>,
) -> Vec<T> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let ended = &ended;
        let clients: Vec<_> =
            clients.into_iter().map(|client| scope.spawn(move || client(ended))).collect();
        thread::sleep(span);
        drop(program);
        ended.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

// === impl Program ===

impl Program {
    /// Starts it and waits until it is ready.
    pub fn start(folder: &Path, storage: &str) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_sluice"));
        program.arg("run");
        Self::start_as(program, folder, storage)
    }

    /// As [`Program::start`]; a file that may not grow fails its writes, as a full disk does, instead of ending the
    /// program with a signal.
    pub fn start_where_files_are_limited(folder: &Path, storage: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$0\" run", env!("CARGO_BIN_EXE_sluice")]);
        Self::start_as(shell, folder, storage)
    }

    fn start_as(mut command: Command, folder: &Path, storage: &str) -> Self {
        let since = Instant::now();
        let child = command
            .current_dir(folder)
            .env("SLUICE_TEST_STORAGE", storage)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut child = Killed(child);
        let mut lines =
            BufReader::new(child.0.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = Vec::new();
        let (admin, web) = loop {
            let Some(line) = lines.next() else { panic!("it ended: {seen:#?}") };
            let address = |what: &str| -> Option<SocketAddr> {
                let rest = line.split(what).nth(1)?;
                rest.split([',', ' ', '"']).next()?.parse().ok()
            };
            let both = address("admin on ").zip(address("web on "));
            if let Some(both) = both.filter(|_| line.contains("serving")) {
                break both;
            }
            seen.push(line);
        };
        // What else it says is read, so that it does not wait for a reader.
        thread::spawn(move || lines.for_each(drop));
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            let answer = Connection(admin).ask("GET", "/readyz", "");
            if answer.is_some_and(|(status, _)| status == 200) {
                return Self { child, admin, web, opened: since.elapsed() };
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("it is not ready");
    }

    /// Of its process.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }
}

// === impl Killed ===

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it is dead");
    }
}

// === impl Connection ===

impl Connection {
    /// Status and body; none: the program is dead.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        self.ask_with(method, path, "", body)
    }

    /// As [`Connection::ask`], with these fields.
    pub fn ask_with(
        &self,
        method: &str,
        path: &str,
        fields: &str,
        body: &str,
    ) -> Option<(u16, Value)> {
        let kind = if path.ends_with("/events") { "cloudevents+json" } else { "json" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/{kind}\r\n{fields}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.0).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut buffer = BufReader::new(stream);
        let mut line = String::new();
        buffer.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut length = 0;
        loop {
            line.clear();
            buffer.read_line(&mut line).ok().filter(|count| *count > 0)?;
            if line == "\r\n" {
                break;
            }
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        buffer.read_exact(&mut body).ok()?;
        Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    /// Receives what a subscription has and acknowledges it; empty: nothing has come for `wait_ms`.
    pub fn take(&self, subscription: &str, wait_ms: u32) -> Vec<Value> {
        let path = |verb| format!("/v1/subscriptions/{subscription}/{verb}");
        let asked = json!({ "max_events": 500, "wait_ms": wait_ms, "lease_ms": 60_000 });
        let Some(mut answer) = self.ask_until_back(&path("receive"), &asked) else {
            return Vec::new();
        };
        let Value::Array(events) = answer["events"].take() else { panic!("{answer}") };
        let tokens: Vec<_> = events.iter().map(|event| event["lease"]["token"].clone()).collect();
        self.ask_until_back(&path("ack"), &json!({ "tokens": tokens }));
        events
    }

    /// Delivery state that could not be written comes back by itself. The answer, if there is one.
    fn ask_until_back(&self, path: &str, asked: &Value) -> Option<Value> {
        let until = Instant::now() + BACK;
        loop {
            let (status, answer) = self.ask("POST", path, &asked.to_string()).expect("it runs");
            match status {
                200 => return Some(answer),
                204 => return None,
                503 if Instant::now() < until => thread::sleep(Duration::from_millis(50)),
                _ => panic!("{path}: {status} {answer}"),
            }
        }
    }
}

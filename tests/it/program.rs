//! The program itself: exit codes, messages, signals.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use crate::harness::Client;

const ROUTES: &str = "routes: [{ name: a, match: { path: /a }, respond: { body: a } }]\n";

fn sluice(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with this gateway.yaml in it.
fn folder(yaml: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    folder
}

fn yaml(listener: &str, routes: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: \"{listener}\" }}]\nadmin: {{ address: 127.0.0.1:0 }}\n{routes}"
    )
}

/// A `sluice run`, killed when it is dropped.
struct Process {
    child: Child,
    log: std::sync::mpsc::Receiver<String>,
    address: SocketAddr,
}

impl Process {
    /// Starts it and waits until it says that it serves.
    fn start(folder: &Path) -> Self {
        let mut process =
            Self::spawn(Command::new(env!("CARGO_BIN_EXE_sluice")).arg("run"), folder);
        process.serving();
        process
    }

    fn spawn(command: &mut Command, folder: &Path) -> Self {
        let mut child = command
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, log) = std::sync::mpsc::sync_channel(1000);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, log, address: ([127, 0, 0, 1], 0).into() }
    }

    fn serving(&mut self) {
        let line = self.line("serving");
        let address = line.split("web on ").nth(1).and_then(|rest| rest.split(',').next());
        self.address = address.and_then(|text| text.parse().ok()).expect("an address");
    }

    /// The next log line with this in it.
    fn line(&self, what: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(Duration::from_secs(20)) {
                Ok(line) if line.contains(what) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line with {what:?}: {error}; these came: {seen:#?}"),
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn check_says_ok_or_every_problem() {
    let good = folder(&yaml("127.0.0.1:0", ROUTES));
    let output = sluice(&["check"], good.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("ok: 1 listener"), "{}", text(&output.stdout));

    // A webhook is no upstream that anybody has written.
    let hooks = "topics: { a: {} }\nqueue: { dir: data }\nupstreams: { u: { endpoints: [\"127.0.0.1:1\"] } }\n\
                 subscriptions: [{ name: s, topic: a, push: { url: \"http://127.0.0.1:2/\" } }]\n";
    let hooks = folder(&yaml("127.0.0.1:0", hooks));
    let output = sluice(&["check"], hooks.path());
    let said = text(&output.stdout);
    assert_eq!(said, "ok: 1 listener, 0 routes, 1 upstream, 1 topic, 1 subscription\n");

    let bad = folder(&yaml(
        "127.0.0.1:0",
        "routes:\n  - { name: a, match: { path: /a }, upstream: lost }\n  - { name: a, match: { path: /b }, timeout: 5 parsecs, upstream: lost }\n",
    ));
    let output = sluice(&["check"], bad.path());
    assert_eq!(output.status.code(), Some(78));
    let told = text(&output.stderr);
    assert!(told.contains("gateway.yaml:4:"), "{told}");
    assert!(told.contains("no upstream named `lost`"), "{told}");
    assert!(told.contains("5 parsecs"), "all problems in one run: {told}");
    assert!(!told.contains('\u{1b}'), "colour in a pipe: {told}");
}

#[test]
fn run_refuses_a_bad_file_with_78_and_a_taken_port_with_1() {
    let bad = folder("listeners: []\n");
    assert_eq!(sluice(&["run"], bad.path()).status.code(), Some(78));

    let missing = tempfile::tempdir().unwrap();
    let output = sluice(&["run"], missing.path());
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("gateway.yaml"), "{}", text(&output.stderr));

    let first = folder(&yaml("127.0.0.1:0", ROUTES));
    let running = Process::start(first.path());
    let second = folder(&yaml(&running.address.to_string(), ROUTES));
    let output = sluice(&["run"], second.path());
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("listener `web`"), "{told}");
    assert!(told.contains(&running.address.to_string()), "{told}");
    assert!(told.contains("in use"), "{told}");
}

#[test]
fn explain_and_schema_speak_to_people_and_machines() {
    let folder = folder(&yaml("127.0.0.1:0", ROUTES));
    let output = sluice(&["explain", "GET", "http://shop/a"], folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains('a'));
    let output = sluice(&["explain", "--json", "GET", "/nowhere"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told["losers"].as_array().is_some_and(|losers| losers.len() == 1), "{told}");
    let output = sluice(&["schema"], folder.path());
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["listeners"].is_object(), "{schema}");
}

#[test]
fn every_command_has_an_example_in_its_help() {
    let folder = tempfile::tempdir().unwrap();
    for command in [
        &["--help"][..],
        &["run", "--help"],
        &["check", "--help"],
        &["explain", "--help"],
        &["schema", "--help"],
    ] {
        let output = sluice(command, folder.path());
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("Example"), "{command:?}");
    }
}

#[tokio::test]
async fn hangup_reloads_and_terminate_drains() {
    let folder = folder(&yaml("127.0.0.1:0", ROUTES));
    let mut process = Process::start(folder.path());
    let mut client = Client::connect(process.address).await;
    assert_eq!(client.get("/a").await.text(), "a");
    let new = yaml("127.0.0.1:0", &ROUTES.replace("body: a", "body: b"));
    std::fs::write(folder.path().join("gateway.yaml"), new).unwrap();
    process.signal("-HUP");
    process.line("taken over");
    client.get_until("/a", "b").await;
    process.signal("-INT");
    process.line("stopped");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn a_file_that_changes_during_a_drain_is_no_error() {
    let log = "telemetry: { log_level: debug }\n";
    let folder = folder(&yaml("127.0.0.1:0", &format!("{log}{ROUTES}")));
    let process = Process::start(folder.path());
    // It waits 5 s before it closes anything.
    process.signal("-TERM");
    process.line("draining");
    let path = folder.path().join("gateway.yaml");
    std::fs::write(path, yaml("127.0.0.1:0", ROUTES)).unwrap();
    let line = process.line("gateway.yaml or a file that it names has changed");
    assert!(line.contains("DEBUG"), "{line}");
    let line = process.line("listeners closed");
    assert!(!line.contains("ERROR"), "{line}");
}

#[test]
fn a_second_signal_leaves_at_once() {
    let folder = folder(&yaml("127.0.0.1:0", ROUTES));
    let mut process = Process::start(folder.path());
    // The first one waits 5 s before it closes anything.
    process.signal("-TERM");
    process.line("draining");
    let before = std::time::SystemTime::now();
    process.signal("-TERM");
    assert_eq!(process.exit_code(), Some(1));
    assert!(before.elapsed().unwrap() < Duration::from_secs(4));
}

#[test]
fn a_head_that_is_refused_before_it_is_a_request_is_told() {
    let folder = folder(&yaml("127.0.0.1:0", ROUTES));
    let process = Process::start(folder.path());
    let refused = |head: &[u8]| {
        let mut stream = std::net::TcpStream::connect(process.address).unwrap();
        std::io::Write::write_all(&mut stream, head).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "c".repeat(40_000));
    assert!(refused(large.as_bytes()).starts_with("HTTP/1.1 431 "));
    let line = process.line("431 header-too-large");
    for part in ["limits.header_bytes", "\"listener\":\"web\"", "\"client\":\"127.0.0.1\""] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!line.contains("ccc"), "{line}");
}

#[test]
fn the_log_in_a_pipe_is_json_from_the_first_line_to_the_last() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let queue = "topics: { orders: { retention: { max_age: 1m } } }\n";
    let folder =
        folder(&yaml(&taken.local_addr().unwrap().to_string(), &format!("{queue}{ROUTES}")));
    let ended = sluice(&["run"], folder.path());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let told = text(&ended.stderr);
    let lines = told.lines().map(|line| serde_json::from_str(line).expect(line));
    let lines: Vec<serde_json::Value> = lines.collect();
    let warned = lines.iter().find(|line| line["level"] == "WARN").expect(&told);
    let message = warned["message"].as_str().unwrap();
    assert!(message.starts_with("gateway.yaml:3:"), "{message}");
    let last = lines.last().unwrap();
    assert_eq!(last["level"], "ERROR");
    assert!(last["message"].as_str().unwrap().contains("cannot listen on"), "{told}");
}

#[test]
fn the_access_log_is_json_in_a_pipe() {
    let folder = folder(&yaml("127.0.0.1:0", ROUTES));
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .arg("run")
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("web on ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended");
    }
    let address = line.split("web on ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(
        &mut stream,
        b"GET /a?secret=1 HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    drop(child.kill());
    drop(child.wait());
    let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["route"], "a");
    assert_eq!(entry["status"], 200);
    assert_eq!(entry["method"], "GET");
    assert_eq!(entry["path"], "/a", "no query unless it is asked for");
    assert_eq!(entry["client_ip"], "127.0.0.1");
}

#[tokio::test]
async fn as_many_files_may_be_open_as_the_system_lets_it() {
    let folder = folder(&yaml("127.0.0.1:0", ROUTES));
    let limited = "ulimit -Sn 100 && ulimit -Hn 300 && exec \"$0\" run";
    let mut shell = Command::new("sh");
    shell.args(["-c", limited, env!("CARGO_BIN_EXE_sluice")]);
    let mut process = Process::spawn(&mut shell, folder.path());
    let line = process.line("fewer files may be open than connections are allowed");
    assert!(line.contains("\"limit\":300"), "the soft limit was raised: {line}");
    process.serving();
    // More than the soft limit would have let in.
    let mut clients = Vec::new();
    for _ in 0..150 {
        let mut client = Client::connect(process.address).await;
        assert_eq!(client.get("/a").await.text(), "a");
        clients.push(client);
    }
}

#[test]
fn the_queue_command_says_what_is_wrong_with_where_it_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let lost = sluice(&["queue", "status", "-c", "lost.yaml"], folder.path());
    assert_eq!(lost.status.code(), Some(78));
    assert!(text(&lost.stderr).contains("lost.yaml: the file cannot be read"), "{lost:?}");
    let odd = sluice(&["queue", "status", "--admin", "localhost"], folder.path());
    assert_eq!(odd.status.code(), Some(1));
    assert_eq!(text(&odd.stderr), "error: `localhost` is not HOST:PORT\n");
}

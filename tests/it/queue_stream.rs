//! The live tail over real sockets: events as they come, resumed over a restart, and a reader that does
//! not read.

use std::{net::SocketAddr, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::Instant,
};

use crate::{
    harness::{Origin, Reply, Running, within},
    queue_http::{event, publish},
};

fn queue(folder: &Path) -> String {
    format!(
        "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{}} }}\n",
        folder.join("data").display()
    )
}

/// A client of a stream.
struct Stream {
    socket: TcpStream,
    /// Without the framing of chunks: these messages have no line that is a hexadecimal number.
    text: String,
}

/// One message.
#[derive(Debug)]
struct Told {
    id: String,
    event: String,
    data: Value,
}

// === impl Stream ===

impl Stream {
    /// With a receive buffer as small as the system has them.
    async fn open(admin: SocketAddr, query: &str, last: Option<&str>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut socket = socket.connect(admin).await.unwrap();
        let last = last.map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
        let head =
            format!("GET /v1/topics/orders/stream{query} HTTP/1.1\r\nHost: {admin}\r\n{last}\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut stream = Self { socket, text: String::new() };
        within("the stream to open", async {
            while !stream.text.contains("retry: 1000") {
                stream.fill().await;
            }
        })
        .await;
        assert!(stream.text.starts_with("HTTP/1.1 200"), "{}", stream.text);
        stream
    }

    async fn fill(&mut self) {
        let mut bytes = vec![0; 64 << 10];
        let count = self.socket.read(&mut bytes).await.unwrap();
        assert!(count > 0, "it has ended");
        self.text += std::str::from_utf8(&bytes[..count]).unwrap();
    }

    /// The next message with data.
    async fn next(&mut self) -> Told {
        within("a message", async {
            loop {
                if let Some(told) = self.take() {
                    return told;
                }
                self.fill().await;
            }
        })
        .await
    }

    fn take(&mut self) -> Option<Told> {
        loop {
            let end = self.text.find("\n\n")?;
            let block: String = self.text.drain(..end + 2).collect();
            let field = |name: &str| {
                block.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
            };
            // A piece may end within a long line: the framing of chunks is within it then.
            if let Some(data) = field("data:") {
                let data = serde_json::from_str(&data).unwrap_or(Value::Null);
                let (id, event) = (field("id:").unwrap(), field("event:").unwrap_or_default());
                return Some(Told { id, event, data });
            }
        }
    }
}

#[tokio::test]
async fn a_tail_is_told_of_events_as_they_come_and_resumes_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Running::start(&queue(folder.path()));
    let admin = gateway.gateway().admin_address();
    let mut stream = Stream::open(admin, "", None).await;
    for number in 0..3 {
        publish(admin, &event(&number.to_string(), "k", &json!(number))).await;
        let told = stream.next().await;
        assert_eq!((told.id, told.event.as_str()), (number.to_string(), ""));
        assert_eq!(told.data["event"]["data"], json!(number));
    }
    drop(stream);
    publish(admin, &event("3", "k", &json!(3))).await;
    drop(gateway);

    let gateway = Running::start(&queue(folder.path()));
    let admin = gateway.gateway().admin_address();
    let mut stream = Stream::open(admin, "?from=latest", Some("1")).await;
    publish(admin, &event("4", "k", &json!(4))).await;
    for number in 2..5 {
        let told = stream.next().await;
        assert_eq!((told.id, &told.data["event"]["data"]), (number.to_string(), &json!(number)));
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_told_of_a_gap_and_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Running::start(&queue(folder.path()));
    let admin = gateway.gateway().admin_address();
    let mut stream = Stream::open(admin, "", None).await;
    let large = "x".repeat(900 << 10);
    // More than all buffers on the way and memory have, for longer than a tail may be behind.
    let since = Instant::now();
    let mut last = 0;
    while last < 24 || since.elapsed() < Duration::from_secs(2) {
        last += 1;
        let told = publish(admin, &event(&format!("l{last}"), "k", &json!(large))).await;
        assert_eq!(told.status, 202);
    }
    let mut seen = 0;
    let gap = loop {
        let told = stream.next().await;
        if told.event == "gap" {
            break told;
        }
        assert_eq!(told.id, seen.to_string(), "in order and without a gap until then");
        seen += 1;
    };
    let skipped = gap.data["skipped"].as_u64().unwrap();
    assert_eq!((gap.data["lost"].as_u64(), skipped > 0), (Some(0), true), "{gap:?}");
    assert_eq!(gap.id, (seen + skipped - 1).to_string(), "it says where it goes on");
    assert_eq!(seen + skipped, last);
    publish(admin, &event("end", "k", &json!("end"))).await;
    let told = stream.next().await;
    assert_eq!((told.id, &told.data["event"]["id"]), (last.to_string(), &json!("end")));
}

#[tokio::test]
async fn a_reader_that_is_cut_off_misses_nothing_when_it_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Running::start(&queue(folder.path()));
    let admin = gateway.gateway().admin_address();
    let mut stream = Stream::open(admin, "", None).await;
    publish(admin, &event("0", "k", &json!(0))).await;
    assert_eq!(stream.next().await.id, "0");
    // More than its socket takes, and it does not read.
    let large = "x".repeat(900 << 10);
    for number in 1..16 {
        publish(admin, &event(&number.to_string(), "k", &json!(large))).await;
    }
    drop(gateway);
    let mut last = 0;
    within("the end of what was on its way", async {
        loop {
            while let Some(told) = stream.take() {
                last += 1;
                assert_eq!((told.id, told.event), (last.to_string(), String::new()));
            }
            let mut bytes = vec![0; 64 << 10];
            match stream.socket.read(&mut bytes).await {
                Ok(count @ 1..) => stream.text += std::str::from_utf8(&bytes[..count]).unwrap(),
                Ok(0) | Err(_) => return,
            }
        }
    })
    .await;
    assert!(last < 15, "it was cut off");

    let gateway = Running::start(&queue(folder.path()));
    let admin = gateway.gateway().admin_address();
    let mut stream = Stream::open(admin, "", Some(&last.to_string())).await;
    for offset in last + 1..16 {
        let told = stream.next().await;
        assert_eq!(
            (told.id, told.event),
            (offset.to_string(), String::new()),
            "nothing is left out"
        );
    }
}

#[tokio::test]
async fn the_program_says_what_is_missing_beside_the_events_and_goes_on_behind_it() {
    let stream = |messages: &str| {
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        Reply::AnswerThenClose(format!("{head}retry: 1\n\n{messages}").into())
    };
    let admin = Origin::start(move |number, _| match number {
        0 => stream("id: 7\nevent: gap\ndata: {\"lost\":3,\"skipped\":4}\n\n"),
        _ => stream("id: 8\ndata: {\"offset\":8}\n\n"),
    })
    .await;
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
    program.args(["queue", "--admin", &admin.address().to_string(), "tail", "orders", "--json"]);
    program.args(["--count", "1"]);
    let program = tokio::task::spawn_blocking(move || program.output());
    let output = within("the program", program).await.unwrap().unwrap();
    let [text, said] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
    assert_eq!(text, "{\"offset\":8}\n", "what reads it reads events");
    assert_eq!(said, "-- 3 events are lost or gone\n-- 4 events were left out: too slow\n");
    assert_eq!(admin.requests()[1].field("last-event-id"), Some("7"));
}

#[tokio::test]
async fn the_program_shows_what_was_there_and_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Running::start(&queue(folder.path()));
    let admin = gateway.gateway().admin_address();
    publish(admin, &event("0", "k", &json!(0))).await;
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
    program.args(["queue", "--admin", &admin.to_string(), "tail", "orders", "--json"]);
    program.args(["--from", "earliest", "--count", "3"]);
    let program = tokio::task::spawn_blocking(move || program.output());
    for number in 1..3 {
        publish(admin, &event(&number.to_string(), "k", &json!(number))).await;
    }
    let output = within("the program", program).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let data = |line: &str| serde_json::from_str::<Value>(line).unwrap()["event"]["data"].clone();
    assert_eq!(lines.lines().map(data).collect::<Vec<_>>(), [json!(0), json!(1), json!(2)]);
}

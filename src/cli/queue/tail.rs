//! `sluice queue tail`

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    client::{Client, Sent, segment},
    show::text,
};
use crate::cli;

/// The pause before reconnecting, unless the stream sets another.
const PAUSE: Duration = Duration::from_millis(200);
/// The first pause while a gateway is away, doubled with each attempt, ...
const FIRST: Duration = Duration::from_millis(250);
/// ... up to this.
const LONGEST: Duration = Duration::from_secs(10);
/// A stream that is silent this long is given up: it would have ended by itself before.
const SILENCE: Duration = Duration::from_secs(90);
/// The maximum size of one message, in bytes.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// Arguments of `sluice queue tail`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice queue tail orders                     from now on, until Ctrl-C
  sluice queue tail orders --from earliest --json | jq .event.data")]
pub(super) struct Args {
    /// The topic
    topic: String,
    /// Where to start: `earliest`, `latest` or an offset
    #[arg(long, value_name = "PLACE", default_value = "latest")]
    from: String,
    /// Stop after this many events
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

/// The data received from streams.
#[derive(Default)]
struct Messages {
    /// The beginning of an incomplete message.
    rest: Vec<u8>,
    /// The last ID, and when to reconnect.
    last: Option<String>,
    retry: Option<Duration>,
}

/// The state while a gateway does not answer.
#[derive(Debug, Default)]
struct Away {
    tries: u32,
    /// Whether it has just gone away.
    is_news: bool,
}

/// One message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    id: Option<String>,
    event: Option<String>,
    data: String,
}

/// Prints events until it is interrupted, or the gateway answers that it is no use. A stream that
/// ends or breaks is resumed at its position, however long the gateway is away.
pub(super) async fn run(client: &Client, args: &Args, json: bool) -> Result<(), String> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut messages = Messages::default();
    let mut away = Away::default();
    let base = format!("/v1/topics/{}/stream", segment(&args.topic));
    // Only a gateway that has answered once is waited for; a mistyped address is reported at once.
    let mut was_there = false;
    loop {
        let mut sent = Sent::nothing();
        let target = match &messages.last {
            Some(id) => {
                sent.fields.push(("last-event-id", id.clone()));
                base.clone()
            }
            None => format!("{base}?from={}", segment(&args.from)),
        };
        let mut body = match client.open(Method::GET, &target, sent).await {
            Ok(response) => response.into_body(),
            Err(failure) if was_there && failure.is_passing => {
                let pause = away.again(fastrand::f64());
                if away.is_news {
                    say(&format!("{}; trying again", String::from(failure)));
                }
                sleep(pause).await;
                continue;
            }
            Err(failure) => return Err(failure.into()),
        };
        was_there = true;
        if away.is_over() {
            say("connected again");
        }
        messages.rest.clear();
        // A stream that is silent for this long counts as broken.
        while let Ok(Some(frame)) = timeout(SILENCE, body.frame()).await {
            let Some(data) = frame.ok().and_then(|frame| frame.into_data().ok()) else { break };
            messages.rest.extend_from_slice(&data);
            if messages.rest.len() > MAX_MESSAGE {
                return Err("a message is too large".to_owned());
            }
            while let Some(message) = messages.next() {
                if message.event.as_deref() == Some("end") {
                    return Err(format!("the stream has ended: {}", message.data));
                }
                if left == 0 {
                    return Ok(());
                }
                show(&message, json);
                left -= u64::from(message.event.is_none());
                if left == 0 {
                    return Ok(());
                }
            }
        }
        sleep(messages.retry.unwrap_or(PAUSE)).await;
    }
}

#[expect(clippy::print_stderr, reason = "what is no event does not go where the events go")]
fn say(text: &str) {
    eprintln!("-- {text}");
}

fn show(message: &Message, json: bool) {
    let Ok(value) = serde_json::from_str::<Value>(&message.data) else { return };
    if message.event.as_deref() == Some("gap") {
        if let Some(lost @ 1..) = value["lost"].as_u64() {
            say(&format!("{lost} events are lost or gone"));
        }
        if let Some(skipped @ 1..) = value["skipped"].as_u64() {
            say(&format!("{skipped} events were left out: too slow"));
        }
    } else if json {
        // Unchanged, including numbers; a line break between its parts is equal to a blank.
        cli::print(&format!("{}\n", message.data.replace('\n', " ")));
    } else if message.id.is_some() {
        let event = &value["event"];
        let data = event.get("data").or(event.get("data_base64"));
        let data: String =
            data.map(Value::to_string).unwrap_or_default().chars().take(120).collect();
        cli::print(&format!(
            "{}  {}:{}  {}  {}  {data}\n",
            text(&value["published_at"]),
            value["partition"],
            value["offset"],
            text(&event["type"]),
            text(&event["id"]),
        ));
    }
}

// === impl Away ===

impl Away {
    /// Records a failed attempt; returns the pause before the next. `random` is from 0 to 1.
    fn again(&mut self, random: f64) -> Duration {
        self.is_news = self.tries == 0;
        let pause = FIRST.saturating_mul(1 << self.tries.min(16)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        // Spreads clients out, so that they do not all come back at once.
        pause.mul_f64(0.5 + 0.5 * random)
    }

    /// Records an answer; returns whether it was away.
    fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.tries) > 0
    }
}

// === impl Messages ===

impl Messages {
    /// The next complete message. Comments are skipped.
    fn next(&mut self) -> Option<Message> {
        loop {
            let end = self.rest.windows(2).position(|pair| pair == b"\n\n")?;
            let block: Vec<u8> = self.rest.drain(..end + 2).collect();
            let block = String::from_utf8_lossy(&block);
            let mut message = Message::default();
            let mut is_any = false;
            for line in block.lines() {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value);
                match name {
                    "id" => {
                        message.id = Some(value.to_owned());
                        self.last.clone_from(&message.id);
                    }
                    "retry" => self.retry = value.parse().ok().map(Duration::from_millis),
                    "event" => message.event = Some(value.to_owned()),
                    "data" => {
                        if is_any {
                            message.data.push('\n');
                        }
                        message.data.push_str(value);
                        is_any = true;
                    }
                    _ => {}
                }
            }
            if is_any {
                return Some(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::telemetry::task;

    /// Answers one connection after another with these, and returns the heads of the requests.
    async fn answering(
        answers: &'static [&'static str],
    ) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = task::spawn("admin API", async move {
            let mut heads = Vec::new();
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                heads.push(String::from_utf8(head).unwrap());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            heads
        });
        (address, asked)
    }

    fn args() -> Args {
        Args { topic: "orders".to_owned(), from: "earliest".to_owned(), count: Some(2) }
    }

    const FIRST_EVENT: &str =
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nid: 7\nretry: 1\ndata: {}\n\n";
    const BUSY: &str = "HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn a_gateway_that_goes_away_is_waited_for_and_the_tail_goes_on_where_it_was() {
        let last = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nid: 8\ndata: {}\n\n";
        let (address, asked) = answering(Box::leak(Box::new([FIRST_EVENT, BUSY, "", last]))).await;
        run(&Client::new(address, None), &args(), true).await.unwrap();
        let heads = asked.await.unwrap();
        assert!(heads[0].contains("?from=earliest"), "{heads:?}");
        assert!(heads[1..].iter().all(|head| head.contains("last-event-id: 7")), "{heads:?}");
        assert_eq!(heads.len(), 4);
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_not_tried_again() {
        let none = "HTTP/1.1 404 None\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let (address, asked) = answering(Box::leak(Box::new([FIRST_EVENT, none]))).await;
        assert!(run(&Client::new(address, None), &args(), true).await.is_err());
        assert_eq!(asked.await.unwrap().len(), 2);
        // Nor a gateway that never answered.
        let (address, _asked) = answering(&[BUSY]).await;
        assert!(run(&Client::new(address, None), &args(), true).await.is_err());
    }

    #[test]
    fn it_is_tried_less_and_less_often_and_said_once() {
        let mut away = Away::default();
        assert!(!away.is_over());
        assert_eq!((away.again(1.0), away.is_news), (FIRST, true));
        assert_eq!((away.again(1.0), away.is_news), (2 * FIRST, false));
        for _ in 0..100 {
            assert!(away.again(1.0) <= LONGEST && away.again(0.0) >= LONGEST.min(4 * FIRST) / 2);
        }
        assert!(away.is_over() && !away.is_over());
        assert_eq!((away.again(0.0), away.is_news), (FIRST / 2, true));
    }

    #[test]
    fn messages_come_in_any_pieces() {
        let stream = "id: 6\nretry: 1000\n\n: nothing new\n\nid: 7\ndata: {\"a\":\ndata: 1}\n\nevent: gap\ndata: {}\n\nid: 8";
        let mut messages = Messages::default();
        let mut found = Vec::new();
        for byte in stream.bytes() {
            messages.rest.push(byte);
            assert!(
                messages.last.is_none()
                    || found.is_empty() == (messages.last.as_deref() == Some("6"))
            );
            found.extend(messages.next());
        }
        assert_eq!(messages.retry, Some(Duration::from_secs(1)));
        assert_eq!(
            found,
            [
                Message { id: Some("7".to_owned()), event: None, data: "{\"a\":\n1}".to_owned() },
                Message { id: None, event: Some("gap".to_owned()), data: "{}".to_owned() },
            ]
        );
    }
}

//! `sluice queue tail`

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    client::{Client, Sent, segment},
    show::text,
};
use crate::cli;

/// Before the next connection, unless the stream says another.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes of one message at most.
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
    /// `earliest`, `latest` or an offset
    #[arg(long, value_name = "PLACE", default_value = "latest")]
    from: String,
    /// End after so many events
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

/// What has come of streams.
#[derive(Default)]
struct Messages {
    /// Not a whole message yet.
    rest: Vec<u8>,
    /// The last ID, and when to come back.
    last: Option<String>,
    retry: Option<Duration>,
}

/// One message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    id: Option<String>,
    event: Option<String>,
    data: String,
}

/// Prints events until somebody ends it. A stream that ends is resumed where it was.
pub(super) async fn run(client: &Client, args: &Args, json: bool) -> Result<(), String> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut messages = Messages::default();
    let base = format!("/v1/topics/{}/stream", segment(&args.topic));
    loop {
        let mut sent = Sent::nothing();
        let target = match &messages.last {
            Some(id) => {
                sent.fields.push(("last-event-id", id.clone()));
                base.clone()
            }
            None => format!("{base}?from={}", segment(&args.from)),
        };
        let mut body = client.open(Method::GET, &target, sent).await?.into_body();
        messages.rest.clear();
        while let Some(frame) = body.frame().await {
            // A stream that breaks off is resumed like one that ends.
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

fn show(message: &Message, json: bool) {
    let Ok(value) = serde_json::from_str::<Value>(&message.data) else { return };
    if message.event.as_deref() == Some("gap") {
        if let Some(lost @ 1..) = value["lost"].as_u64() {
            cli::print(&format!("-- {lost} events are lost or gone\n"));
        }
        if let Some(skipped @ 1..) = value["skipped"].as_u64() {
            cli::print(&format!("-- {skipped} events were left out: too slow\n"));
        }
    } else if json {
        cli::print(&format!("{value}\n"));
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

// === impl Messages ===

impl Messages {
    /// The next message that is all there. Comments are no messages.
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
    use super::*;

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

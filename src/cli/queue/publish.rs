//! `sluice queue publish`

use std::{
    io::Read as _,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::{
    Asked,
    client::{Sent, segment},
    object, show,
};
use crate::{cli::token::duration, events::wire, telemetry::clock};

/// Arguments of `sluice queue publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice queue publish orders --type order.created --data '{\"id\": 7}' --key customer-1
  sluice queue publish orders --type invoice.made --data @invoice.pdf --content-type application/pdf
  sluice queue publish orders --event event.json      a whole CloudEvent, or a list; - is stdin")]
pub(super) struct Args {
    /// The topic
    topic: String,
    /// The event's type: CloudEvents `type`
    #[arg(long = "type", value_name = "TYPE", required_unless_present = "event")]
    kind: Option<String>,
    /// The event's source: CloudEvents `source`
    #[arg(long, value_name = "URI", default_value = "/sluice/cli")]
    source: String,
    /// The event's ID; by default a new one
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// What the event is about: CloudEvents `subject`
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// The ordering key; by default the subject
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The payload: text, @FILE, or - for stdin
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    /// The media type of the payload
    #[arg(long, value_name = "TYPE", default_value = "application/json")]
    content_type: String,
    /// Another attribute; may be repeated
    #[arg(long = "attribute", value_name = "NAME=VALUE")]
    attributes: Vec<String>,
    /// Deliver only after this time, at most as long as the topic keeps events
    #[arg(long, value_name = "DURATION", value_parser = positive)]
    delay: Option<Duration>,
    /// Do not deliver after this time
    #[arg(long, value_name = "DURATION", value_parser = positive)]
    expires: Option<Duration>,
    /// A CloudEvent in JSON, or a list of them: a file, or - for stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "data", "id"])]
    event: Option<String>,
}

// === impl Args ===

impl Args {
    pub(super) fn asked(&self) -> Result<Asked, String> {
        let (content_type, body) = match &self.event {
            Some(file) => whole(&read(file)?),
            None => (wire::STRUCTURED, self.composed()?.to_string().into()),
        };
        Ok(Asked {
            method: Method::POST,
            target: format!("/v1/topics/{}/events", segment(&self.topic)),
            sent: Sent { content_type, body, fields: Vec::new() },
            show: show::published,
        })
    }

    fn composed(&self) -> Result<Value, String> {
        let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
        let from_now = |span: Duration| json!(clock::rfc3339(clock::now() + span));
        let mut event = object([
            ("specversion", Some(json!("1.0"))),
            ("type", text(&self.kind)),
            ("source", Some(json!(self.source))),
            ("id", text(&self.id)),
            ("time", Some(json!(now()))),
            ("subject", text(&self.subject)),
            ("partitionkey", text(&self.key)),
            ("sluicenotbefore", self.delay.map(from_now)),
            ("sluiceexpiry", self.expires.map(from_now)),
        ]);
        for attribute in &self.attributes {
            let (name, value) = attribute
                .split_once('=')
                .ok_or_else(|| format!("`{attribute}` is not NAME=VALUE"))?;
            event[name] = json!(value);
        }
        let Some(data) = &self.data else { return Ok(event) };
        let bytes = match data.strip_prefix('@') {
            Some(file) => read(file)?,
            None if data == "-" => read("-")?,
            None => data.as_bytes().to_vec(),
        };
        event["datacontenttype"] = json!(self.content_type);
        let essence = self.content_type.split(';').next().unwrap_or_default().trim();
        if essence == "application/json" || essence.ends_with("+json") {
            event["data"] = serde_json::from_slice(&bytes).map_err(|error| {
                format!("the data is no JSON: {error}; --content-type says what it is")
            })?;
        } else {
            use base64::{Engine as _, engine::general_purpose::STANDARD};
            event["data_base64"] = json!(STANDARD.encode(bytes));
        }
        Ok(event)
    }
}

/// Whether it is one event or a list, determined by the first character.
fn whole(bytes: &[u8]) -> (&'static str, Bytes) {
    let is_list = bytes.trim_ascii_start().first() == Some(&b'[');
    let content_type = if is_list { wire::BATCH } else { wire::STRUCTURED };
    (content_type, Bytes::copy_from_slice(bytes))
}

fn now() -> String {
    let now: SystemTime = clock::now();
    clock::rfc3339(now)
}

fn positive(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_millis(1))
}

fn read(file: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    if file == "-" {
        std::io::stdin().read_to_end(&mut bytes).map_err(|error| format!("stdin: {error}"))?;
        return Ok(bytes);
    }
    std::fs::read(file).map_err(|error| format!("{file} cannot be read: {error}"))
}

//! What an attempt may fail with, as `retry.on` names it.

use http::StatusCode;
use schemars::{Schema, json_schema};

use super::{Fault, Value, did_you_mean};

/// One word or number of `retry.on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// Nothing was sent.
    Connect,
    /// It may have been seen.
    Reset,
    /// It was answered with this.
    Status(StatusCode),
}

// === impl RetryOn ===

impl Value for RetryOn {
    fn schema() -> Schema {
        json_schema!({
            "anyOf": [
                { "enum": ["connect", "reset"] },
                { "type": "integer", "minimum": 400, "maximum": 599 },
            ]
        })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "connect" => return Ok(Self::Connect),
            "reset" => return Ok(Self::Reset),
            _ => {}
        }
        let fault = || Fault::new(format!("`{text}` is nothing an attempt fails with"));
        let Ok(number) = text.parse::<u16>() else {
            let near = did_you_mean(text, ["connect", "reset"]);
            let all = || "`connect`, `reset`, or a status such as `503`".to_owned();
            return Err(Fault { help: Some(near.unwrap_or_else(all)), ..fault() });
        };
        match StatusCode::from_u16(number) {
            Ok(status) if (400..600).contains(&number) => Ok(Self::Status(status)),
            Ok(_) | Err(_) => Err(fault().help("statuses from 400 to 599")),
        }
    }
}

//! The live tail of a topic as server-sent events.
//!
//! Each event has its offset as ID, so `Last-Event-ID` resumes without a gap. A stream ends by itself
//! after a while and clients come back, as they do anyway: no connection is kept for good.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Response, header};
use tokio::time::Instant;

use super::{Payload, problem::Problem, query, view};
use crate::events::facade::{Events, StoredEvent, Tail, TailPage};

/// How long a stream lasts.
const LASTS: Duration = Duration::from_secs(45);
/// How often something is said, whatever happens.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Events fetched at once.
const PAGE: usize = 100;

struct Tailing {
    events: Arc<dyn Events>,
    topic: String,
    from: Option<u64>,
    ends: Instant,
    pending: VecDeque<Bytes>,
    is_over: bool,
}

pub(super) async fn answer(
    events: Arc<dyn Events>,
    topic: String,
    headers: &HeaderMap,
    query: Option<&str>,
    is_operator: bool,
) -> Result<Response<Payload>, Problem> {
    let mut from = query::stream_from(query)?;
    if let Some(last) = headers.get("last-event-id") {
        let last = last.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
        let last = last.ok_or_else(|| Problem::bad_request("`Last-Event-ID` is not an offset"))?;
        from = Some(last.saturating_add(1));
    }
    // The first look tells whether there is such a topic, and where its end is.
    let first = Tail { from, max_events: PAGE, wait: Duration::ZERO };
    let page = events.tail(&topic, first).await;
    let page = page.map_err(|refusal| Problem::refused(&refusal, is_operator))?;
    let mut tailing = Tailing {
        events,
        topic,
        from,
        ends: Instant::now() + LASTS,
        pending: VecDeque::from([Bytes::from_static(b"retry: 1000\n\n")]),
        is_over: false,
    };
    tailing.took(&page);
    let pieces = stream::unfold(tailing, |mut tailing| async move {
        let piece = tailing.next().await?;
        Some((piece, tailing))
    });
    let mut response = Response::new(Payload::Stream(pieces.boxed()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

// === impl Tailing ===

impl Tailing {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.pending.pop_front() {
                return Some(piece);
            }
            let left = self.ends.saturating_duration_since(Instant::now());
            if self.is_over || left.is_zero() {
                return None;
            }
            let tail = Tail { from: self.from, max_events: PAGE, wait: left.min(KEEP_ALIVE) };
            match self.events.tail(&self.topic, tail).await {
                Ok(page) => {
                    self.took(&page);
                    if self.pending.is_empty() {
                        return Some(Bytes::from_static(b": nothing new\n\n"));
                    }
                }
                Err(refusal) => {
                    self.is_over = true;
                    let told = serde_json::json!({ "code": refusal.reason() });
                    return Some(format!("event: end\ndata: {told}\n\n").into());
                }
            }
        }
    }

    fn took(&mut self, page: &TailPage) {
        self.from = Some(page.next);
        if page.gap > 0 {
            let told = format!("event: gap\ndata: {{\"lost\":{}}}\n\n", page.gap);
            self.pending.push_back(told.into());
        }
        self.pending.extend(page.events.iter().map(framed));
    }
}

/// One message. JSON may have line ends between its tokens; each line is one of `data`.
fn framed(stored: &StoredEvent) -> Bytes {
    let mut json = Vec::with_capacity(stored.event.bytes() + 256);
    view::stored(stored, &mut json);
    let mut out = format!("id: {}\n", stored.offset).into_bytes();
    for line in json.split(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
    out.into()
}

//! The live tail of a topic as server-sent events.
//!
//! Each event's ID is its offset, so `Last-Event-ID` resumes without a gap; a client that has seen
//! no event gets an ID for its position (`-1` before the first). Missing offsets are reported as a
//! message `gap` with the last of them as ID. A stream ends after a while and clients reconnect at
//! once, as they do anyway, so no connection stays open for good.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Response, header};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{Payload, problem::Problem, query, view};
use crate::events::facade::{Events, StoredEvent, Tail, TailPage, Told};

/// Duration of a stream.
const LASTS: Duration = Duration::from_secs(45);
/// Maximum silence on a stream.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Events are sent in pieces of up to this many bytes, or of one larger event.
const PIECE: usize = 16 << 10;
/// Delay of a reconnect: after a stream that broke off, ...
const RETRY: &str = "retry: 1000\n\n";
/// ... and after one that ended regularly.
const RETRY_AT_ONCE: &str = "retry: 10\n\n";

struct Tailing {
    tail: Tail,
    ends: Instant,
    /// The rest of the last page. Encoded on demand, so a slow client holds only one page.
    events: Arc<[Told]>,
    at: usize,
    is_over: bool,
}

/// Answers with a stream that starts at `Last-Event-ID`, or else as `query` says.
pub(super) async fn answer(
    events: &dyn Events,
    topic: &str,
    headers: &HeaderMap,
    query: Option<&str>,
    is_operator: bool,
) -> Result<Response<Payload>, Problem> {
    let mut from = query::stream_from(query)?;
    if let Some(last) = headers.get("last-event-id") {
        let last = last.to_str().ok().map(str::trim);
        let next = match last {
            Some("-1") => Some(0),
            last => last.and_then(|last| last.parse::<u64>().ok()?.checked_add(1)),
        };
        from = Some(next.ok_or_else(|| Problem::bad_request("`Last-Event-ID` is not an offset"))?);
    }
    let tail = events.tail(topic, from).await;
    let tail = tail.map_err(|refusal| Problem::refused(&refusal, is_operator))?;
    let start = Bytes::from(format!("id: {}\n{RETRY}", last_before(tail.next)));
    let ends = Instant::now() + LASTS;
    let tailing = Tailing { tail, ends, events: Arc::default(), at: 0, is_over: false };
    let pieces = stream::unfold(tailing, |mut tailing| async move {
        let piece = tailing.next().await?;
        Some((piece, tailing))
    });
    let pieces = stream::once(async { start }).chain(pieces);
    let mut response = Response::new(Payload::Stream(pieces.boxed()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

// === impl Tailing ===

impl Tailing {
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let mut piece = BytesMut::new();
        if self.at >= self.events.len() {
            let until = self.ends.min(Instant::now() + KEEP_ALIVE);
            match timeout_at(until, self.tail.pages.next()).await {
                Ok(Some(Ok(page))) => self.take(page, &mut piece),
                Ok(Some(Err(refusal))) => {
                    self.is_over = true;
                    let told = json!({ "code": refusal.reason() });
                    return Some(format!("event: end\ndata: {told}\n\n").into());
                }
                Ok(None) => return None,
                Err(_) if self.ends <= Instant::now() => {}
                Err(_) => return Some(Bytes::from_static(b": nothing new\n\n")),
            }
        }
        while piece.len() < PIECE
            && let Some(event) = self.events.get(self.at)
        {
            piece.extend_from_slice(event.wire(frame));
            self.at += 1;
        }
        if self.at >= self.events.len() && self.ends <= Instant::now() {
            self.is_over = true;
            piece.extend_from_slice(RETRY_AT_ONCE.as_bytes());
        }
        Some(piece.freeze())
    }

    fn take(&mut self, page: TailPage, piece: &mut BytesMut) {
        if page.gap + page.skipped > 0 {
            let next = page.events.first().map_or(page.next, |event| event.stored().offset);
            let told = json!({ "lost": page.gap, "skipped": page.skipped });
            let last = last_before(next);
            let message = format!("id: {last}\nevent: gap\ndata: {told}\n\n");
            piece.extend_from_slice(message.as_bytes());
        }
        (self.events, self.at) = (page.events, 0);
    }
}

/// The ID for a client that has seen everything below `next`.
fn last_before(next: u64) -> String {
    next.checked_sub(1).map_or_else(|| "-1".to_owned(), |last| last.to_string())
}

/// One message. JSON may have line breaks between its tokens; each line becomes a `data` line.
fn frame(stored: &StoredEvent) -> Bytes {
    let mut json = Vec::with_capacity(stored.event.bytes() + 256);
    view::stored(stored, &mut json);
    let mut out = BytesMut::with_capacity(json.len() + 64);
    out.extend_from_slice(format!("id: {}\n", stored.offset).as_bytes());
    for line in json.split(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.extend_from_slice(b"\n");
    }
    out.extend_from_slice(b"\n");
    out.freeze()
}

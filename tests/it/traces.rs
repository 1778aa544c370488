//! Semantics 11: W3C Trace Context in and out of every request, spans of sampled ones to a real OTLP
//! receiver, and a collector that is in trouble harms no request.

use std::{collections::HashMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use parking_lot::Mutex;
use prost::Message as _;
use sluicegate::{
    config::{self, Config},
    gateway::{Drain, DrainSettings, Options},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::Instant,
};

use crate::{
    harness::{Message, Origin, Reply, Running, dead_address, eventually, parse, proxy_to, within},
    queue_http::{event, publish},
};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// What an OTLP receiver was sent, export by export.
type Exports = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// A configuration that sends spans to `otlp`, on top of `yaml`.
fn traced(otlp: &str, sample: &str, yaml: &str) -> Config {
    parse(&text(otlp, sample, yaml))
}

fn text(otlp: &str, sample: &str, yaml: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         telemetry:\n  access_log: {{ path: off }}\n  \
         tracing: {{ otlp: \"{otlp}\", sample: {sample} }}\n{yaml}"
    )
}

fn start(config: Config) -> Running {
    let drain = DrainSettings {
        before_close: Duration::ZERO,
        requests: Duration::from_secs(1),
        upgrades: Duration::ZERO,
    };
    Running::start_with(config, Options { drain, ..Options::default() })
}

async fn get(gateway: &Running, fields: &str) -> Message {
    let fields = if fields.is_empty() { String::new() } else { format!("\n{fields}") };
    let head = format!("GET /orders/7?token=secret HTTP/1.1\nHost: shop.example{fields}");
    gateway.client().await.request(&head, "").await
}

/// A collector that speaks gRPC; takes everything.
async fn grpc_collector() -> (SocketAddr, Exports) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let exports = Exports::default();
    let kept = exports.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_grpc(stream, kept.clone()));
        }
    });
    (address, exports)
}

async fn serve_grpc(stream: TcpStream, exports: Exports) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let exports = exports.clone();
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            assert_eq!(
                head.uri.path(),
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
            );
            assert_eq!(head.headers["content-type"], "application/grpc");
            assert_eq!(head.headers["te"], "trailers");
            let mut message = BytesMut::new();
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
                message.put(piece);
            }
            let length = u32::from_be_bytes(message[1..5].try_into().unwrap());
            assert_eq!((message[0], length as usize), (0, message.len() - 5));
            exports.lock().push(ExportTraceServiceRequest::decode(&message[5..]).unwrap());
            let head = http::Response::new(());
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
            let ok = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static("0"),
            )]);
            stream.send_trailers(ok).unwrap();
        });
    }
}

/// A collector that speaks HTTP and answers each export with this status and message.
async fn http_collector(
    answer: impl Fn(usize) -> (u16, Vec<u8>) + Send + Sync + 'static,
) -> Origin {
    Origin::start(move |number, _| {
        let (status, body) = answer(number);
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/x-protobuf\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        Reply::Answer([head.into_bytes(), body].concat())
    })
    .await
}

async fn willing() -> Origin {
    http_collector(|_| (200, Vec::new())).await
}

fn url(collector: &Origin) -> String {
    format!("http://{}/v1/traces", collector.address())
}

fn exported(collector: &Origin) -> Vec<Span> {
    let exports = collector.requests().into_iter();
    let exports = exports.map(|it| ExportTraceServiceRequest::decode(&*it.body).unwrap());
    exports.flat_map(spans).collect()
}

fn spans(export: ExportTraceServiceRequest) -> Vec<Span> {
    let scopes = export.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn words(attributes: &[KeyValue]) -> HashMap<String, String> {
    let word = |attribute: &KeyValue| {
        let value = match attribute.value.clone().unwrap().value.unwrap() {
            any_value::Value::StringValue(text) => text,
            any_value::Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (attribute.key.clone(), value)
    };
    attributes.iter().map(word).collect()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

/// The parts of the `traceparent` that the upstream saw: trace, parent, flags.
fn seen(request: &Message) -> [String; 3] {
    let values = request.all("traceparent");
    assert_eq!(values.len(), 1, "{values:?}");
    let parts: Vec<_> = values[0].split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"), "{values:?}");
    assert_eq!((parts[1].len(), parts[2].len()), (32, 16), "{values:?}");
    [parts[1].to_owned(), parts[2].to_owned(), parts[3].to_owned()]
}

/// Two endpoints of which the first is not there: half of the requests need another attempt.
/// With one worker: of two, each would begin its turns anew.
fn half_dead(dead: SocketAddr, origin: &Origin) -> String {
    format!(
        "workers: 1\nupstreams:\n  orders:\n    endpoints: [\"{dead}\", \"{}\"]\n    balance: round_robin\n\
         routes: [{{ name: order, match: {{ path: \"/orders/{{id}}\" }}, upstream: orders, \
         rewrite: {{ path: \"/v2{{path}}\" }} }}]\n",
        origin.address()
    )
}

/// What became of a request whose first attempt found nobody, as a gRPC collector was told.
struct Retried {
    gateway: Running,
    origin: Origin,
    dead: SocketAddr,
    exports: Exports,
    all: Vec<Span>,
    server: Span,
    first: Span,
    second: Span,
}

impl Retried {
    async fn new() -> Self {
        let (collector, exports) = grpc_collector().await;
        let origin = Origin::ok("hello").await;
        let dead = dead_address();
        let yaml = half_dead(dead, &origin);
        let gateway = start(traced(&format!("http://{collector}"), "0%", &yaml));
        for _ in 0..2 {
            let fields =
                format!("traceparent: {SAMPLED}\ntracestate: congo=t61\nUser-Agent: tester");
            assert_eq!(get(&gateway, &fields).await.status(), 200);
        }
        let all = || exports.lock().iter().cloned().flat_map(spans).collect::<Vec<_>>();
        let is_server = |it: &&Span| it.kind() == SpanKind::Server;
        // Workers export on their own: what belongs together may come apart.
        let is_whole = |all: &[Span]| {
            let retried = all.iter().filter(|span| is_error(span));
            let mut servers = retried.map(|failed| &failed.parent_span_id);
            all.iter().filter(is_server).count() == 2
                && servers.any(|server| {
                    all.iter().any(|span| span.span_id == *server)
                        && all.iter().filter(|span| span.parent_span_id == *server).count() == 2
                })
        };
        eventually("two servers and a retry", || is_whole(&all())).await;
        let all = all();
        let first = all.iter().find(|span| is_error(span)).expect("one attempt failed").clone();
        let server = all.iter().find(|it| it.span_id == first.parent_span_id).unwrap().clone();
        let of_server = |it: &&Span| it.parent_span_id == server.span_id;
        let second = all.iter().filter(of_server).find(|span| !is_error(span)).unwrap().clone();
        assert_eq!(all.iter().filter(of_server).count(), 2);
        Self { gateway, origin, dead, exports, all, server, first, second }
    }
}

#[tokio::test]
async fn a_grpc_collector_receives_the_server_and_its_attempts() {
    let Retried { gateway, origin, all, server, first, second, .. } = Retried::new().await;
    assert!(all.iter().all(|span| hex(&span.trace_id) == SAMPLED[3..35]));
    assert!(all.iter().all(|span| span.trace_state == "congo=t61"));
    assert_eq!(hex(&server.parent_span_id), SAMPLED[36..52]);
    assert_eq!((server.kind(), first.kind()), (SpanKind::Server, SpanKind::Client));
    assert_eq!((&*server.name, &*first.name), ("GET /orders/{id}", "GET"));
    assert!(!is_error(&server), "the client got its answer");
    assert!(server.start_time_unix_nano <= first.start_time_unix_nano);
    assert!(first.end_time_unix_nano <= second.end_time_unix_nano);
    assert!(second.end_time_unix_nano <= server.end_time_unix_nano);

    // What the upstream saw is the attempt that reached it, each time another.
    let parents: Vec<_> = origin.requests().iter().map(seen).collect();
    let second = hex(&second.span_id);
    assert!(parents.iter().any(|[_, parent, flags]| *parent == second && flags == "01"));
    assert_ne!(parents[0][1], parents[1][1]);
    assert_eq!(origin.requests()[0].field("tracestate"), Some("congo=t61"));
    within("the count of exported spans", async {
        while gateway.metric("sluice_spans_exported_total").await < all.len() as f64 {}
    })
    .await;
}

#[tokio::test]
async fn spans_say_what_the_conventions_ask_for() {
    let Retried { gateway, dead, exports, all, server, first, second, .. } = Retried::new().await;
    let port = gateway.address().port().to_string();
    let told = words(&server.attributes);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/orders/{id}"),
        ("url.path", "/orders/7"),
        ("url.scheme", "http"),
        ("server.address", "shop.example"),
        ("server.port", &port),
        ("client.address", "127.0.0.1"),
        ("network.peer.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "tester"),
        ("http.response.status_code", "200"),
        ("sluice.route", "order"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{name} of {told:#?}");
    }
    assert!(!told.contains_key("error.type"));
    assert!(!format!("{all:?}").contains("secret"), "the query is nobody's business");

    let told = words(&first.attributes);
    assert_eq!(told["error.type"], "upstream-connect");
    assert_eq!(told["server.address"], "127.0.0.1");
    assert_eq!(told["server.port"], dead.port().to_string());
    assert_eq!(told["url.full"], format!("http://{dead}/v2/orders/7"));
    assert_eq!(told["sluice.upstream"], "orders");
    assert!(!told.contains_key("http.request.resend_count"));
    let told = words(&second.attributes);
    assert_eq!(told["http.request.resend_count"], "1");
    assert_eq!(told["sluice.retry.reason"], "upstream-connect");
    assert_eq!(told["http.response.status_code"], "200");
    assert!(!told.contains_key("error.type"));

    let resource = exports.lock()[0].resource_spans[0].clone();
    assert_eq!(resource.scope_spans[0].scope.as_ref().unwrap().name, "sluice");
    let told = words(&resource.resource.unwrap().attributes);
    assert_eq!(told["service.name"], "sluice");
    assert_eq!(told["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(told["service.instance.id"].len(), 36);
    assert!(told.contains_key("host.name"));
}

#[tokio::test]
async fn an_http_collector_receives_spans_with_the_fields_of_the_environment() {
    let collector = willing().await;
    let origin = Origin::start(|_, _| {
        Reply::Answer(b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n".to_vec())
    })
    .await;
    let yaml = text(&url(&collector), "100%", &proxy_to(origin.address()));
    let env = |name: &str| {
        (name == "OTEL_EXPORTER_OTLP_HEADERS").then(|| "x-api-key=a%20b+c, x-team=edge".to_owned())
    };
    let (config, _) = config::parse(&yaml, "test.yaml", Path::new("."), &env).unwrap();
    let gateway = start(config);
    assert_eq!(get(&gateway, "").await.status(), 503);
    eventually("the spans", || exported(&collector).len() >= 2).await;
    let request = &collector.requests()[0];
    assert_eq!(request.target(), "/v1/traces");
    assert_eq!(request.field("content-type"), Some("application/x-protobuf"));
    assert_eq!(request.field("x-api-key"), Some("a b+c"));
    assert_eq!(request.field("x-team"), Some("edge"));
    let spans = exported(&collector);
    assert!(spans.iter().all(is_error));
    assert!(spans[0].parent_span_id.is_empty(), "the trace begins here");
    assert_eq!(spans[1].parent_span_id, spans[0].span_id);
    assert_eq!(words(&spans[0].attributes)["error.type"], "503");
    assert_eq!(words(&spans[1].attributes)["error.type"], "503");
    assert_eq!(seen(&origin.requests()[0])[1], hex(&spans[1].span_id));
    // A refusal is no failure of the server's, but it has its word.
    let refused = gateway.client().await.request("GET /x HTTP/1.1\nHost: a b", "").await;
    assert_eq!(refused.status(), 400);
    eventually("the span of the refusal", || exported(&collector).len() >= 3).await;
    let span = exported(&collector).pop().unwrap();
    assert!(!is_error(&span));
    assert_eq!(words(&span.attributes)["sluice.reason"], "bad-framing");
}

#[tokio::test]
async fn unsampled_requests_send_nothing_and_still_carry_a_trace() {
    let collector = willing().await;
    let origin = Origin::ok("").await;
    let gateway = start(traced(&url(&collector), "0%", &proxy_to(origin.address())));
    for _ in 0..20 {
        assert_eq!(get(&gateway, "").await.status(), 200);
        let fields = format!("traceparent: {UNSAMPLED}\ntracestate: a=1");
        assert_eq!(get(&gateway, &fields).await.status(), 200);
    }
    get(&gateway, &format!("traceparent: {}", SAMPLED.replace("b7ad", "0123"))).await;
    eventually("the sampled one", || !exported(&collector).is_empty()).await;
    let parents: Vec<_> = exported(&collector).iter().map(|it| hex(&it.parent_span_id)).collect();
    assert_eq!(parents.len(), 2);
    assert!(parents.contains(&"01236b7169203331".to_owned()), "{parents:?}");
    let requests = origin.requests();
    for pair in requests[..40].chunks(2) {
        let [trace, _, flags] = seen(&pair[0]);
        assert_eq!(flags, "00", "its trace is not sampled: {trace}");
        assert_eq!(pair[1].field("traceparent"), Some(UNSAMPLED), "as it came");
        assert_eq!(pair[1].field("tracestate"), Some("a=1"));
    }
    assert_ne!(seen(&requests[0])[0], seen(&requests[2])[0]);
}

#[tokio::test]
async fn without_tracing_the_fields_pass_through_untouched() {
    let origin = Origin::ok("").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    for fields in [
        "",
        "traceparent: nonsense\ntracestate: A=A=A",
        &format!("traceparent: {SAMPLED}\ntracestate: a=1"),
    ] {
        assert_eq!(get(&gateway, fields).await.status(), 200);
        let request = origin.requests().pop().unwrap();
        let wanted = fields.lines().map(|line| line.split_once(": ").unwrap());
        let wanted: HashMap<_, _> = wanted.collect();
        assert_eq!(request.field("traceparent"), wanted.get("traceparent").copied());
        assert_eq!(request.field("tracestate"), wanted.get("tracestate").copied());
    }
}

#[tokio::test]
async fn a_hostile_traceparent_is_restarted_and_nothing_of_it_believed() {
    let collector = willing().await;
    let origin = Origin::ok("").await;
    let gateway = start(traced(&url(&collector), "0%", &proxy_to(origin.address())));
    let long = "a".repeat(8000);
    let upper = SAMPLED.to_uppercase();
    let zero_trace = SAMPLED.replace(&SAMPLED[3..35], &"0".repeat(32));
    let zero_parent = SAMPLED.replace(&SAMPLED[36..52], &"0".repeat(16));
    let later = SAMPLED.replacen("00-", "ff-", 1);
    let longer = format!("{SAMPLED}-00");
    let two = format!("{SAMPLED}\ntraceparent: {SAMPLED}");
    let list = format!("{SAMPLED}, {SAMPLED}");
    for hostile in [
        "",
        "-",
        "00",
        "00--",
        &SAMPLED[..54],
        &long,
        &upper,
        &zero_trace,
        &zero_parent,
        &later,
        &longer,
        &two,
        &list,
        "\u{fffd}\u{1f4a9}",
    ] {
        let fields = format!("traceparent: {hostile}\ntracestate: a=1");
        assert_eq!(get(&gateway, &fields).await.status(), 200, "{hostile}");
        let request = origin.requests().pop().unwrap();
        let [trace, parent, flags] = seen(&request);
        assert_ne!(trace, SAMPLED[3..35], "{hostile}");
        assert_ne!(parent, SAMPLED[36..52], "{hostile}");
        assert_eq!(flags, "00", "{hostile}");
        assert_eq!(request.field("tracestate"), None, "{hostile}");
    }
    for hostile in ["a", "=", "a=1,a=2", "A=1", "a=1=1", &long, &"k=v,".repeat(40)] {
        let fields = format!("traceparent: {SAMPLED}\ntracestate: {hostile}");
        assert_eq!(get(&gateway, &fields).await.status(), 200, "{hostile}");
        let request = origin.requests().pop().unwrap();
        assert_eq!(seen(&request)[0], SAMPLED[3..35], "{hostile}");
        assert_eq!(request.field("tracestate"), None, "{hostile}");
    }
}

#[tokio::test]
async fn the_access_log_names_the_trace_that_began_here() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let origin = Origin::ok("").await;
    let collector = willing().await;
    let yaml = text(&url(&collector), "100%", &proxy_to(origin.address()));
    let gateway = start(parse(&yaml.replace("path: off", &format!("path: {}", log.display()))));
    get(&gateway, "").await;
    let line = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the line", || line().ends_with('\n')).await;
    let line: serde_json::Value = serde_json::from_str(&line()).unwrap();
    assert_eq!(line["trace_id"], seen(&origin.requests()[0])[0]);
    eventually("the spans", || !exported(&collector).is_empty()).await;
    assert_eq!(line["trace_id"], hex(&exported(&collector)[0].trace_id));
    let id = words(&exported(&collector)[0].attributes)["sluice.request_id"].clone();
    assert_eq!(line["request_id"], id);
}

async fn counted(gateway: &Running, series: &str, count: u64) {
    let value = gateway.metric(series).await;
    assert!((value - count as f64).abs() < 0.5, "{series} is {value}, not {count}");
}

/// Waits until so many spans were lost for this cause.
async fn lost(gateway: &Running, cause: &str, count: f64) {
    let series = format!("sluice_spans_lost_total{{cause=\"{cause}\"}}");
    within("the count of lost spans", async { while gateway.metric(&series).await < count {} })
        .await;
}

#[tokio::test]
async fn what_a_collector_does_not_take_is_counted() {
    let origin = Origin::ok("").await;
    let refusing = http_collector(|_| (400, Vec::new())).await;
    let gateway = start(traced(&url(&refusing), "100%", &proxy_to(origin.address())));
    assert_eq!(get(&gateway, "").await.status(), 200);
    lost(&gateway, "export-failed", 2.0).await;
    assert_eq!(refusing.requests().len(), 1, "what is refused is not sent again");

    // One of two, as an `ExportTracePartialSuccess`.
    let choosy = http_collector(|_| (200, vec![0x0a, 0x02, 0x08, 0x01])).await;
    let gateway = start(traced(&url(&choosy), "100%", &proxy_to(origin.address())));
    get(&gateway, "").await;
    lost(&gateway, "rejected", 1.0).await;
    counted(&gateway, "sluice_spans_exported_total", 1).await;
}

#[tokio::test]
async fn a_collector_that_was_away_for_a_moment_gets_everything() {
    let origin = Origin::ok("").await;
    let collector =
        http_collector(|number| (if number == 0 { 503 } else { 200 }, Vec::new())).await;
    let gateway = start(traced(&url(&collector), "100%", &proxy_to(origin.address())));
    get(&gateway, "").await;
    eventually("the second try", || collector.requests().len() >= 2).await;
    let requests = collector.requests();
    assert_eq!(requests[0].body, requests[1].body);
    within("the count of exported spans", async {
        while gateway.metric("sluice_spans_exported_total").await < 2.0 {}
    })
    .await;
    counted(&gateway, "sluice_spans_lost_total{cause=\"export-failed\"}", 0).await;
}

#[tokio::test]
async fn a_dead_or_slow_collector_delays_no_request_and_no_end() {
    let origin = Origin::ok("").await;
    let slow = Origin::start(|_, _| Reply::Hang).await;
    for otlp in [
        format!("http://{}", dead_address()),
        format!("http://{}/v1/traces", dead_address()),
        url(&slow),
        // It speaks no HTTP/2.
        format!("http://{}", origin.address()),
    ] {
        let gateway = start(traced(&otlp, "100%", &proxy_to(origin.address())));
        let begun = Instant::now();
        for _ in 0..50 {
            assert_eq!(get(&gateway, "").await.status(), 200, "{otlp}");
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{otlp}: {:?}", begun.elapsed());
        let begun = Instant::now();
        gateway.gateway().drain(Drain::Prompt);
        within("the end", gateway.gateway().stopped()).await;
        assert!(begun.elapsed() < Duration::from_secs(9), "{otlp}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_drain_exports_what_is_left() {
    let (collector, exports) = grpc_collector().await;
    let origin = Origin::ok("").await;
    let yaml = proxy_to(origin.address());
    let gateway = start(traced(&format!("http://{collector}"), "100%", &yaml));
    for _ in 0..300 {
        get(&gateway, "").await;
    }
    gateway.gateway().drain(Drain::Prompt);
    within("the end", gateway.gateway().stopped()).await;
    let count: usize = exports.lock().iter().cloned().map(|it| spans(it).len()).sum();
    assert_eq!(count, 600);
}

#[tokio::test]
async fn a_drain_lets_an_export_under_way_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let otlp = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let (began, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let collector = tokio::spawn({
        let (began, leave) = (began.clone(), leave.clone());
        async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut buffer, mut count) = (Vec::new(), 0);
            while Message::read_request(&mut stream, &mut buffer).await.is_some() {
                count += 1;
                began.notify_one();
                leave.notified().await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
            // Another connection would be another try.
            (count, listener)
        }
    });
    let origin = Origin::ok("").await;
    let gateway = start(traced(&otlp, "100%", &proxy_to(origin.address())));
    let address = gateway.address();
    get(&gateway, "").await;
    within("the export", began.notified()).await;
    gateway.gateway().drain(Drain::Prompt);
    eventually("the port to be left", || std::net::TcpStream::connect(address).is_err()).await;
    leave.notify_one();
    within("the end", gateway.gateway().stopped()).await;
    let (count, listener) = within("the collector", collector).await.unwrap();
    assert_eq!(count, 1);
    assert!(futures_util::poll!(Box::pin(listener.accept())).is_pending());
}

#[tokio::test]
async fn a_reload_changes_the_share_and_the_collector() {
    let origin = Origin::ok("").await;
    let (one, other) = (willing().await, willing().await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    let write = |otlp: &str, sample: &str| {
        std::fs::write(&path, text(otlp, sample, &proxy_to(origin.address()))).unwrap();
    };
    write(&url(&one), "0%");
    let config = config::load(&path).unwrap().config;
    let options = Options { source: Some(path.clone()), ..Options::default() };
    let gateway = Running::start_with(config, options);
    get(&gateway, "").await;
    write(&url(&one), "100%");
    gateway.gateway().reload().await.unwrap();
    get(&gateway, "").await;
    eventually("spans at the first", || exported(&one).len() == 2).await;
    write(&url(&other), "100%");
    gateway.gateway().reload().await.unwrap();
    get(&gateway, "").await;
    eventually("spans at the other", || exported(&other).len() == 2).await;
    let untraced = text("", "", &proxy_to(origin.address()));
    let untraced = untraced.lines().filter(|line| !line.contains("tracing:"));
    std::fs::write(&path, untraced.collect::<Vec<_>>().join("\n")).unwrap();
    gateway.gateway().reload().await.unwrap();
    get(&gateway, "").await;
    assert_eq!(origin.requests().pop().unwrap().field("traceparent"), None);
    assert_eq!((exported(&one).len(), exported(&other).len()), (2, 2));
}

#[tokio::test]
async fn explain_tells_whether_a_request_is_sampled() {
    let gateway = start(traced("http://127.0.0.1:1", "25%", &proxy_to(dead_address())));
    for (fields, outcome) in [
        (format!("[\"traceparent: {SAMPLED}\"]"), "sample"),
        (format!("[\"traceparent: {UNSAMPLED}\"]"), "pass"),
        ("[\"traceparent: nonsense\"]".to_owned(), "depends"),
    ] {
        let call = format!("{{\"method\":\"GET\",\"url\":\"/a\",\"headers\":{fields}}}");
        let told = gateway.admin_with("POST", "/v1/explain", &call).await;
        let told: serde_json::Value = serde_json::from_slice(&told.body).unwrap();
        assert_eq!(told["steps"][0]["policy"], "tracing", "{told}");
        assert_eq!(told["steps"][0]["outcome"], outcome, "{told}");
    }
}

/// A route that publishes, and a webhook that gets its events; the first answer of it is 503.
async fn publishing(collector: &Origin, folder: &Path, origin: &Origin) -> (Running, Origin) {
    let webhook = Origin::start(|number, _| {
        let status = if number == 0 { "503 X" } else { "200 OK" };
        Reply::Answer(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes())
    })
    .await;
    let yaml = format!(
        "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{}}, audit: {{}} }}\n\
         subscriptions:\n\
         - {{ name: mail, topic: orders, push: {{ url: \"http://{}/hook?token=secret\" }}, \
         retry: {{ schedule: [0s], max_attempts: 5 }} }}\n\
         upstreams: {{ origin: {{ endpoints: [\"{}\"] }} }}\n\
         routes:\n\
         - name: order\n\
         \x20 match: {{ path: \"/orders/{{id}}\" }}\n\
         \x20 upstream: origin\n\
         \x20 publish:\n\
         \x20 - {{ topic: orders, type: order.created }}\n\
         \x20 - {{ topic: audit, type: order.asked, mode: before, data: none }}\n",
        folder.join("data").display(),
        webhook.address(),
        origin.address()
    );
    (start(traced(&url(collector), "0%", &yaml)), webhook)
}

#[tokio::test]
async fn an_event_has_a_span_where_it_is_published_and_each_delivery_one_that_is_linked_to_it() {
    let (collector, origin) = (willing().await, Origin::ok("{}").await);
    let folder = tempfile::tempdir().unwrap();
    let (gateway, webhook) = publishing(&collector, folder.path(), &origin).await;
    let told = get(&gateway, &format!("traceparent: {SAMPLED}")).await;
    assert_eq!(told.status(), 200);
    let of = |kind: SpanKind| {
        let all = exported(&collector).into_iter();
        all.filter(move |span| span.kind() == kind).collect::<Vec<_>>()
    };
    eventually("two deliveries", || of(SpanKind::Consumer).len() == 2).await;
    eventually("the request", || !of(SpanKind::Server).is_empty()).await;
    let (server, mut published) = (of(SpanKind::Server).remove(0), of(SpanKind::Producer));
    published.sort_by(|one, other| other.name.cmp(&one.name));
    let names: Vec<_> = published.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["publish orders", "publish audit"]);
    for span in &published {
        assert_eq!((&span.trace_id, &span.parent_span_id), (&server.trace_id, &server.span_id));
        assert!(!is_error(span) && span.links.is_empty());
        assert!(span.start_time_unix_nano >= server.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= server.end_time_unix_nano);
    }
    let event = words(&published[0].attributes);
    says(
        &event,
        &[
            ("messaging.system", "sluice"),
            ("messaging.operation.name", "publish"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", "orders"),
        ],
    );
    let id = &*event["messaging.message.id"];
    assert!(told.all("sluice-event-id").contains(&id), "{id}");

    let (deliveries, hooks) = (of(SpanKind::Consumer), webhook.requests());
    assert_eq!(hooks.len(), 2);
    assert_ne!(deliveries[0].trace_id, deliveries[1].trace_id);
    assert!(!format!("{deliveries:?}").contains("secret"));
    for (delivery, (number, hook)) in deliveries.iter().zip(hooks.iter().enumerate()) {
        delivered(delivery, &published[0], hook);
        let (attempt, port) = ((number + 1).to_string(), webhook.address().port().to_string());
        says(
            &words(&delivery.attributes),
            &[
                ("messaging.message.id", id),
                ("sluice.attempt", &attempt),
                ("http.response.status_code", if number == 0 { "503" } else { "200" }),
                ("server.address", "127.0.0.1"),
                ("server.port", &port),
            ],
        );
        assert_eq!(is_error(delivery), number == 0);
        assert_eq!(words(&delivery.attributes).contains_key("error.type"), number == 0);
    }
}

fn says(words: &HashMap<String, String>, all: &[(&str, &str)]) {
    for (name, value) in all {
        assert_eq!(words.get(*name).map(String::as_str), Some(*value), "{name} of {words:#?}");
    }
}

/// The span of a delivery, of what this span has published, that came to the webhook like this.
fn delivered(delivery: &Span, published: &Span, hook: &Message) {
    let link = &delivery.links[0];
    assert_eq!((&link.trace_id, &link.span_id), (&published.trace_id, &published.span_id));
    assert_eq!(delivery.links.len(), 1);
    assert_ne!(delivery.trace_id, published.trace_id, "a trace of its own");
    assert!(delivery.parent_span_id.is_empty());
    let own = [hex(&delivery.trace_id), hex(&delivery.span_id), "01".to_owned()];
    assert_eq!(seen(hook), own, "what the receiver does follows from the delivery");
    let body: serde_json::Value = serde_json::from_slice(&hook.body).unwrap();
    let context = format!("00-{}-{}-01", hex(&published.trace_id), hex(&published.span_id));
    assert_eq!(body["traceparent"], context, "where the event comes from");
    assert_eq!(delivery.name, "deliver orders");
    says(
        &words(&delivery.attributes),
        &[
            ("messaging.system", "sluice"),
            ("messaging.operation.name", "deliver"),
            ("messaging.operation.type", "process"),
            ("messaging.destination.name", "orders"),
            ("messaging.destination.subscription.name", "mail"),
        ],
    );
}

#[tokio::test]
async fn a_client_that_leaves_takes_no_span_with_it() {
    let collector = willing().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
         topics: {{ orders: {{}} }}\n\
         subscriptions: [{{ name: all, topic: orders }}]\n\
         upstreams: {{ origin: {{ endpoints: [\"{}\"] }} }}\n\
         routes: [{{ name: order, match: {{ path: /orders }}, upstream: origin, \
         publish: {{ topic: orders, type: order.created }} }}]\n",
        folder.path().join("data").display(),
        listener.local_addr().unwrap()
    );
    let gateway = start(traced(&url(&collector), "100%", &yaml));
    let mut client = gateway.client().await;
    client.send("POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1").await;
    let (mut upstream, _) = within("the upstream to be asked", listener.accept()).await.unwrap();
    Message::read_request(&mut upstream, &mut Vec::new()).await.unwrap();
    drop(client);
    let left = "sluice_refusals_total{reason=\"client-closed\"}";
    within("the gateway to see it", async { while gateway.metric(left).await < 1.0 {} }).await;
    let answer = crate::harness::origin::ok("done");
    tokio::io::AsyncWriteExt::write_all(&mut upstream, &answer).await.unwrap();
    eventually("its spans", || !exported(&collector).is_empty()).await;
    let all = exported(&collector);
    let of = |kind| all.iter().find(|span| span.kind() == kind).expect("of each kind one");
    assert_eq!(all.len(), 3, "{all:#?}");
    let (server, published) = (of(SpanKind::Server), of(SpanKind::Producer));
    assert_eq!(
        (&published.trace_id, &published.parent_span_id),
        (&server.trace_id, &server.span_id)
    );
    assert!(published.end_time_unix_nano > server.end_time_unix_nano, "it took longer");
    assert!(!is_error(published));
    let attempt = words(&of(SpanKind::Client).attributes);
    says(&attempt, &[("http.response.status_code", "200")]);
}

#[tokio::test]
async fn an_event_without_a_trace_has_one_of_its_own_where_it_is_delivered() {
    for (sample, is_sampled) in [("100%", true), ("0%", false)] {
        let (collector, hook) = (willing().await, Origin::ok("").await);
        let folder = tempfile::tempdir().unwrap();
        let yaml = format!(
            "queue: {{ dir: \"{}\", disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
             topics: {{ orders: {{}} }}\n\
             subscriptions: [{{ name: mail, topic: orders, push: {{ url: \"http://{}/hook\" }} }}]\n\
             routes: [{{ name: a, match: {{ path: /a }}, respond: {{ body: a }} }}]\n",
            folder.path().join("data").display(),
            hook.address()
        );
        let gateway = start(traced(&url(&collector), sample, &yaml));
        let admin = gateway.gateway().admin_address();
        publish(admin, &event("1", "1", &serde_json::json!(1))).await;
        eventually("a delivery", || hook.requests().len() == 1).await;
        if is_sampled {
            eventually("its span", || !exported(&collector).is_empty()).await;
        }
        let seen_by_hook = hook.requests()[0].field("traceparent").map(str::to_owned);
        gateway.gateway().drain(Drain::Prompt);
        within("the end", gateway.gateway().stopped()).await;
        let spans = exported(&collector);
        assert_eq!(spans.len(), usize::from(is_sampled), "{spans:?}");
        let own = spans.first().map(|span| {
            assert!(span.links.is_empty() && span.parent_span_id.is_empty());
            assert_eq!((span.kind(), &*span.name), (SpanKind::Consumer, "deliver orders"));
            format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))
        });
        assert_eq!(seen_by_hook, own, "{sample}");
    }
}

#[tokio::test]
async fn the_events_of_unsampled_requests_have_no_spans_and_carry_their_trace() {
    let (collector, origin) = (willing().await, Origin::ok("{}").await);
    let folder = tempfile::tempdir().unwrap();
    let (gateway, webhook) = publishing(&collector, folder.path(), &origin).await;
    assert_eq!(get(&gateway, &format!("traceparent: {UNSAMPLED}")).await.status(), 200);
    eventually("two deliveries", || webhook.requests().len() == 2).await;
    for hook in webhook.requests() {
        assert_eq!(hook.field("traceparent"), Some(UNSAMPLED), "the event's, as it came");
    }
    gateway.gateway().drain(Drain::Prompt);
    within("the end", gateway.gateway().stopped()).await;
    assert_eq!(exported(&collector).len(), 0);
}

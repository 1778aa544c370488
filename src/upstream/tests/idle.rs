//! Connections while nobody uses them, and those that become tunnels.

use super::{answers::pause, *};

/// What a peer does with a connection that is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Close,
    ShutDown,
    Reset,
    Say(&'static [u8]),
}

/// How the connection came to be idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    /// It was dialled for a request that was given up.
    Unused,
    Used,
}

/// Makes the one idle connection of `rig`.
async fn make_idle(rig: &Rig, idle: Idle) {
    if idle == Idle::Used {
        rig.text(get("/")).await;
    } else {
        let mut given_up = Box::pin(rig.send(get("/")));
        assert!(futures_util::poll!(&mut given_up).is_pending());
    }
    until("it is idle", || rig.pools.idle() == 1).await;
}

/// Waits until what the peer `does` is here, and our tasks have looked at it, if they are to.
async fn arrived(rig: &Rig, does: Does, lets_us_look: bool) {
    if !matches!(does, Does::Say(_)) {
        until("it is here", || rig.local.pool().idle_are_quiet() != Some(true)).await;
    }
    for _ in 0..if lets_us_look { 4 } else { 0 } {
        pause().await;
    }
}

/// A peer that does something to its first connection when that is idle, and then says what it read
/// until our end.
async fn doing(
    idle: Idle,
    does: Does,
    mut going: watch::Receiver<bool>,
    done: mpsc::Sender<Option<Vec<u8>>>,
    mut peer: Peered,
) {
    if peer.number > 0 {
        while !peer.read().await.is_empty() {
            peer.write(OK).await;
        }
        return;
    }
    if idle == Idle::Used {
        peer.read().await;
        peer.write(OK).await;
    }
    drop(going.wait_for(|&go| go).await);
    match does {
        Does::Close => drop(peer),
        Does::Reset => {
            peer.stream.set_zero_linger().unwrap();
            drop(peer);
        }
        Does::ShutDown | Does::Say(_) => {
            if let Does::Say(bytes) = does {
                peer.write(bytes).await;
            } else {
                peer.stream.shutdown().await.unwrap();
            }
            done.send(None).await.unwrap();
            let mut read = Vec::new();
            drop(peer.stream.read_to_end(&mut read).await);
            done.send(Some(read)).await.unwrap();
            return;
        }
    }
    done.send(None).await.unwrap();
}

/// The peer `does` something to an idle connection: we close ours, and the next request goes on
/// another. `lets_us_look`: our tasks run before that request.
async fn idle(idle: Idle, does: Does, method: &Method, lets_us_look: bool) {
    let (go, going) = watch::channel(false);
    let (done, mut is_done) = mpsc::channel(2);
    let address = upstream(move |peer| doing(idle, does, going.clone(), done.clone(), peer));
    // Unsafe methods look at the socket first.
    let settings = Settings { probe_idle_after: Duration::ZERO, ..settings(Protocol::H1) };
    let rig = rig(address.await, settings);
    make_idle(&rig, idle).await;
    go.send(true).unwrap();
    is_done.recv().await.unwrap();
    arrived(&rig, does, lets_us_look).await;
    let what = format!("{idle:?} {does:?} {method}");
    assert_eq!(rig.text(request(method.clone(), "/", Body::empty())).await, "ok", "{what}");
    assert_eq!((rig.counted("opened"), rig.pools.idle()), ("2".into(), 1), "{what}");
    if matches!(does, Does::ShutDown | Does::Say(_)) {
        let read = time::timeout(Duration::from_secs(5), is_done.recv()).await.expect(&what);
        assert_eq!(read.unwrap().unwrap(), b"", "{what}");
    }
}

#[tokio::test]
async fn an_idle_connection_on_which_something_happens_is_not_used() {
    let all = [
        Does::Close,
        Does::ShutDown,
        Does::Reset,
        Does::Say(b"x"),
        Does::Say(b"\r\n"),
        Does::Say(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n"),
        Does::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"),
        Does::Say(b"SSH-2.0-OpenSSH_9.6\r\n"),
    ];
    for does in all {
        for came_idle in [Idle::Used, Idle::Unused] {
            idle(came_idle, does, &Method::GET, true).await;
            idle(came_idle, does, &Method::POST, true).await;
            if !matches!(does, Does::Say(_)) {
                idle(came_idle, does, &Method::POST, false).await;
            }
        }
    }
}

#[tokio::test]
async fn a_connection_that_ends_while_idle_is_closed_although_nobody_asks() {
    for does_shut_down in [true, false] {
        let (closed, mut is_closed) = mpsc::channel(1);
        let address = upstream(move |mut peer| {
            let closed = closed.clone();
            async move {
                peer.read().await;
                peer.write(OK).await;
                if does_shut_down {
                    peer.stream.shutdown().await.unwrap();
                } else {
                    peer.write(b"x").await;
                }
                let read = peer.stream.read_to_end(&mut Vec::new()).await;
                closed.send(read.is_ok()).await.unwrap();
            }
        });
        let rig = rig(address.await, settings(Protocol::H1));
        rig.text(get("/")).await;
        let closed = time::timeout(Duration::from_secs(3), is_closed.recv()).await;
        // With bytes unread it would be a reset.
        assert!(closed.unwrap().unwrap(), "{does_shut_down}");
        until("the janitor came", || rig.pools.idle() == 0).await;
    }
}

/// A TLS upstream that says something on its first connection once told to, or ends it, and tells when
/// it has.
async fn tls_peer(
    acceptor: tokio_rustls::TlsAcceptor,
    says: Option<&'static [u8]>,
    mut going: watch::Receiver<bool>,
    done: mpsc::Sender<()>,
    peer: Peered,
) {
    // What is said behind the tickets is not to wait until those are acknowledged.
    peer.stream.set_nodelay(true).unwrap();
    let mut stream = acceptor.accept(peer.stream).await.unwrap();
    let mut seen = [0; 1024];
    let mut has_done = peer.number > 0;
    loop {
        tokio::select! {
            read = stream.read(&mut seen) => {
                if !read.is_ok_and(|read| read > 0) {
                    return;
                }
                stream.write_all(OK).await.unwrap();
            }
            is_told = async { going.wait_for(|&go| go).await.is_ok() }, if !has_done => {
                has_done = true;
                if !is_told {
                    return;
                }
                match says {
                    Some(says) => stream.write_all(says).await.unwrap(),
                    None => stream.shutdown().await.unwrap(),
                }
                stream.flush().await.unwrap();
                done.send(()).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn over_tls_tickets_are_no_reason_against_an_idle_connection_but_all_else_is() {
    let late: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n";
    // Tickets come with the end of the handshake, behind which the connection may be idle at once.
    for (is_told, says) in [(false, None), (true, None), (true, Some(late))] {
        for (came_idle, method) in [
            (Idle::Unused, Method::GET),
            (Idle::Unused, Method::POST),
            (Idle::Used, Method::GET),
            (Idle::Used, Method::POST),
        ] {
            let (acceptor, ca) = acceptor(b"http/1.1");
            let (go, going) = watch::channel(false);
            let (done, mut is_done) = mpsc::channel(1);
            let address = upstream(move |peer| {
                tls_peer(acceptor.clone(), says, going.clone(), done.clone(), peer)
            });
            let tls = TlsSettings { server_name: None, ca: Some(ca), client: None };
            let settings = Settings {
                tls: Some(tls),
                probe_idle_after: Duration::ZERO,
                ..settings(Protocol::H1)
            };
            let rig = rig(address.await, settings);
            make_idle(&rig, came_idle).await;
            for _ in 0..4 {
                pause().await;
            }
            if is_told {
                go.send(true).unwrap();
                is_done.recv().await.unwrap();
                arrived(&rig, Does::ShutDown, true).await;
                // Tickets alone are something to read: our reactor has to look at what is behind them.
                time::sleep(Duration::from_millis(2)).await;
            }
            for _ in 0..2 {
                let asked = request(method.clone(), "/", Body::empty());
                assert_eq!(rig.text(asked).await, "ok", "{came_idle:?} {method}");
            }
            let opened = if is_told { "2" } else { "1" };
            assert_eq!(rig.counted("opened"), opened, "{came_idle:?} {method}");
        }
    }
}

const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// What a client that asks for an upgrade and says `early` behind it reads, until `end`, of an
/// upstream that answers with `pieces`; and what the upstream read.
async fn switched(
    early: &'static str,
    pieces: Vec<Vec<u8>>,
    end: &'static str,
) -> (String, String) {
    let (seen, mut all) = mpsc::channel(1);
    let address = upstream(move |mut peer| {
        let (seen, pieces) = (seen.clone(), pieces.clone());
        async move {
            peer.stream.set_nodelay(true).unwrap();
            let mut read = peer.read().await.into_bytes();
            for piece in &pieces {
                peer.write(piece).await;
                pause().await;
            }
            while !read.ends_with(early.as_bytes()) {
                assert!(peer.stream.read_buf(&mut read).await.unwrap() > 0);
            }
            seen.send(String::from_utf8(read).unwrap()).await.unwrap();
            drop(peer.stream.read_to_end(&mut Vec::new()).await);
        }
    });
    let rig = Arc::new(rig(address.await, settings(Protocol::H1)));
    let mut client = TcpStream::connect(gateway(rig.clone()).await).await.unwrap();
    client.write_all(&[ASK, early.as_bytes()].concat()).await.unwrap();
    let mut read = Vec::new();
    let all_read = async {
        while !read.ends_with(end.as_bytes()) {
            if client.read_buf(&mut read).await.unwrap() == 0 {
                break;
            }
        }
    };
    time::timeout(Duration::from_secs(5), all_read).await.unwrap();
    let asked = time::timeout(Duration::from_secs(5), all.recv()).await.unwrap().unwrap();
    assert_eq!(rig.pools.idle(), 0);
    (String::from_utf8(read).unwrap(), asked)
}

#[tokio::test]
async fn what_follows_a_101_at_once_arrives() {
    let whole = format!("{SWITCH}hello");
    let hints = format!("HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n{whole}");
    let ways = [
        vec![whole.clone().into_bytes()],
        whole.bytes().map(|byte| vec![byte]).collect(),
        vec![hints.into_bytes()],
        vec![SWITCH.into(), b"hello".to_vec()],
    ];
    for pieces in ways {
        for early in ["", "early"] {
            let (read, asked) = switched(early, pieces.clone(), "hello").await;
            let fields = "connection: upgrade\r\nupgrade: websocket\r\n";
            let head = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}date: ");
            assert!(read.starts_with(&head), "{read}");
            assert!(read.ends_with(" GMT\r\n\r\nhello"), "{read}");
            let head = "GET /chat HTTP/1.1\r\nhost: orders.internal:80\r\n";
            assert_eq!(asked, format!("{head}{fields}\r\n{early}"));
        }
    }
}

#[tokio::test]
async fn a_refusal_to_switch_is_an_ordinary_answer() {
    let cases = [
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "HTTP/1.1 200 Fine\r\ncontent-length: 2\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nok",
            "HTTP/1.1 200 Fine\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
        ),
    ];
    for (answer, expected) in cases {
        let end = expected.split_once("\r\n\r\n").unwrap().1;
        let end = if end.is_empty() { "\r\n\r\n" } else { end };
        let (read, _) = switched("", vec![answer.into()], end).await;
        let lines = read.split_inclusive("\r\n").filter(|line| !line.starts_with("date: "));
        assert_eq!(lines.collect::<String>(), expected);
    }
}

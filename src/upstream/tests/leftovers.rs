//! What is left on a connection by one exchange never becomes part of another.

use std::os::unix::net::UnixListener;

use futures_util::FutureExt as _;

use super::*;

#[tokio::test]
async fn what_follows_a_response_does_not_answer_whoever_waits_for_a_connection() {
    let (sent, mut is_sent) = mpsc::channel(1);
    let address = upstream(move |mut peer| {
        let sent = sent.clone();
        async move {
            peer.read().await;
            if peer.number > 0 {
                return peer.write(OK).await;
            }
            // More than is read with the head; the poison begins where the body ends.
            let body = "b".repeat(9000);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n{body}");
            let poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
            peer.write(format!("{answer}{poison}").as_bytes()).await;
            sent.send(()).await.unwrap();
            peer.read().await;
        }
    });
    let rig = rig(address.await, settings(Protocol::H1));
    let first = rig.send(get("/")).await.unwrap();
    is_sent.recv().await.unwrap();
    let mut second = Box::pin(rig.text(get("/")));
    assert!(second.as_mut().now_or_never().is_none(), "it waits for a connection");
    // In one turn, so that the new connection is not there yet.
    let body = first.into_body().collect().now_or_never().expect("all of it has arrived");
    assert_eq!(body.unwrap().to_bytes().len(), 9000);
    assert_eq!(second.await, "ok");
}

#[tokio::test]
async fn what_was_said_before_a_request_could_be_sent_is_no_answer_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("upstream");
    let listener = UnixListener::bind(&path).unwrap();
    let (close, when) = std::sync::mpsc::sync_channel::<()>(1);
    let (done, is_done) = std::sync::mpsc::sync_channel::<()>(1);
    // A thread of its own: the end has to come while our runtime is looking elsewhere.
    let upstream = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        stream.write_all(OK).unwrap();
        when.recv().unwrap();
        stream.write_all(b"HTTP/1.1 408 Too Late\r\ncontent-length: 0\r\n\r\n").unwrap();
        drop(stream);
        done.send(()).unwrap();
    });
    let rig = rig_at(Address::Unix(path.into()), settings(Protocol::H1));
    rig.text(get("/")).await;
    close.send(()).unwrap();
    is_done.recv().unwrap();
    let mut error = rig.send(post("payload")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamReset(Sent::Nothing)), "{error}");
    let request = error.take_unsent().and_then(Unsent::into_request).expect("handed back");
    assert_eq!(request.body.as_full().unwrap(), "payload");
    upstream.join().unwrap();
}

#[tokio::test]
async fn interim_responses_without_end_are_refused() {
    for (count, is_answered) in [(5_000, true), (20_000, false)] {
        let address = upstream(move |mut peer| async move {
            peer.read().await;
            let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(count);
            // Refused early, the rest may not be taken any more.
            drop(peer.stream.write_all(interim.as_bytes()).await);
            drop(peer.stream.write_all(OK).await);
            peer.read().await;
        });
        let rig = rig(address.await, settings(Protocol::H1));
        match rig.send(get("/")).await {
            Ok(response) => assert!(is_answered && response.status() == StatusCode::OK, "{count}"),
            Err(error) => {
                assert!(!is_answered, "{count}: {error}");
                assert!(matches!(error.kind(), Kind::UpstreamBadResponse), "{error}");
            }
        }
    }
}

//! A damaged log of requests: who needs it is refused with nothing sent, everyone else is served, and what was done
//! under a key is not done again (semantics 9, queue 1 P3 and P12).

use std::fs;

use serde_json::json;

use crate::{
    harness::{Message, Origin, Running, within},
    queue_http::{event, publish},
    queue_verify::{files, part, verify},
};

struct Rig {
    folder: tempfile::TempDir,
    origin: Origin,
}

impl Rig {
    async fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), origin: Origin::ok("done").await }
    }

    fn start(&self) -> Running {
        Running::start(&format!(
            "queue: {{ dir: \"{}\", required: true, disk: {{ min_free: 1MiB, reserve: 4MiB }} }}\n\
             topics: {{ orders: {{}}, jobs: {{}} }}\n\
             subscriptions: [{{ name: workers, topic: jobs, from: earliest, push: {{ upstream: origin }} }}]\n\
             upstreams: {{ origin: {{ endpoints: [\"{}\"] }} }}\n\
             routes:\n\
             \x20 - {{ name: once, match: {{ path: /once }}, upstream: origin, idempotency: {{}} }}\n\
             \x20 - {{ name: told, match: {{ path: /told }}, upstream: origin, publish: [{{ topic: orders, type: a.b }}] }}\n\
             \x20 - {{ name: later, match: {{ path: /later }}, enqueue: {{ topic: jobs }} }}\n\
             \x20 - {{ name: other, match: {{ path: /other }}, upstream: origin }}\n",
            self.folder.path().join("data").display(),
            self.origin.address(),
        ))
    }

    fn log(&self) -> std::path::PathBuf {
        let is_log =
            |name: &str| std::path::Path::new(name).extension().is_some_and(|it| it == "log");
        files(&self.folder.path().join("data/ingress"), &is_log).pop().unwrap()
    }

    /// Changes one byte of the newest file.
    fn flip(&self, at: usize) {
        let mut bytes = fs::read(self.log()).unwrap();
        bytes[at] ^= 0x40;
        fs::write(self.log(), bytes).unwrap();
    }
}

async fn post(gateway: &Running, path: &str, key: &str) -> Message {
    let mut client = gateway.client().await;
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {key}\r\nContent-Length: 2");
    within("an answer", client.request(&head, "{}")).await
}

async fn is_done(gateway: &Running, status: &str) -> Message {
    within("its end", async {
        loop {
            let mut client = gateway.client().await;
            let head = format!("GET {status}?wait=5s HTTP/1.1\r\nHost: a");
            let told = client.request(&head, "").await;
            if told.status() != 200 || told.text().contains("succeeded") {
                return told;
            }
        }
    })
    .await
}

#[tokio::test]
async fn without_its_header_it_is_offline_and_what_was_done_is_not_done_again() {
    let rig = Rig::new().await;
    let gateway = rig.start();
    for key in ["a", "b"] {
        assert_eq!(post(&gateway, "/once", key).await.status(), 200);
    }
    let stored = post(&gateway, "/later", "c").await;
    let status = stored.field("location").unwrap().to_owned();
    assert!(is_done(&gateway, &status).await.text().contains("succeeded"));
    drop(gateway);
    let done = rig.origin.requests().len();
    assert_eq!(done, 3);

    rig.flip(20);
    let (code, told) = verify(rig.folder.path(), &[]);
    assert_eq!((code, &part(&told, "logs", "log", "ingress")["sound"]), (1, &json!(false)));
    let gateway = rig.start();
    for path in ["/once", "/told", "/later"] {
        for key in ["a", "new"] {
            let refused = post(&gateway, path, key).await;
            assert_eq!(refused.status(), 503, "{path}: {}", refused.text());
            assert!(refused.text().contains("queue-unavailable"), "{path}: {}", refused.text());
            assert!(refused.field("retry-after").is_some(), "{path}");
        }
    }
    assert_eq!(is_done(&gateway, &status).await.status(), 503, "it is not known, and not `queued`");
    assert_eq!(rig.origin.requests().len(), done, "nothing was sent");
    assert_eq!(post(&gateway, "/other", "a").await.status(), 200);
    let admin = gateway.gateway().admin_address();
    assert_eq!(publish(admin, &event("1", "k", &json!(1))).await.status, 202);
    let lacks = gateway.admin("GET", "/readyz").await;
    assert_eq!(lacks.status(), 503);
    assert!(lacks.text().contains("the log of requests is offline"), "{}", lacks.text());
    drop(gateway);

    let (code, told) = verify(rig.folder.path(), &["--repair"]);
    assert_eq!(code, 0, "{told:#}");
    let gateway = rig.start();
    let before = rig.origin.requests().len();
    for key in ["a", "b"] {
        let again = post(&gateway, "/once", key).await;
        assert_eq!((again.status(), &*again.text()), (200, "done"));
    }
    assert!(is_done(&gateway, &status).await.text().contains("succeeded"));
    assert_eq!(rig.origin.requests().len(), before, "nothing is done twice");
    assert_eq!(post(&gateway, "/once", "new").await.status(), 200);
    assert_eq!(post(&gateway, "/later", "new").await.status(), 202);
}

#[tokio::test]
async fn every_byte_of_what_was_acknowledged_is_looked_at() {
    let rig = Rig::new().await;
    let gateway = rig.start();
    for number in 0..8 {
        assert_eq!(post(&gateway, "/once", &format!("key-{number}")).await.status(), 200);
    }
    drop(gateway);
    let sound = fs::read(rig.log()).unwrap();
    let used = sound.iter().rposition(|byte| *byte != 0).unwrap();
    // Zeros may be padding, which says nothing.
    let told: Vec<usize> = (4096..=used).filter(|at| sound[*at] != 0).collect();
    for at in told.iter().step_by(told.len() / 24) {
        rig.flip(*at);
        let (code, told) = verify(rig.folder.path(), &[]);
        assert_eq!(code, 1, "byte {at}: {told:#}");
        fs::write(rig.log(), &sound).unwrap();
    }
    assert_eq!(verify(rig.folder.path(), &[]).0, 0);
}

#[tokio::test]
async fn a_key_whose_claim_is_lost_is_answered_as_before_and_not_done_again() {
    let rig = Rig::new().await;
    let gateway = rig.start();
    assert_eq!(post(&gateway, "/once", "claimed-once").await.status(), 200);
    drop(gateway);
    let bytes = fs::read(rig.log()).unwrap();
    let key = b"claimed-once";
    rig.flip(bytes.windows(key.len()).position(|found| found == key).unwrap());
    assert_eq!(verify(rig.folder.path(), &[]).0, 1);
    assert_eq!(verify(rig.folder.path(), &["--repair"]).0, 0);

    let gateway = rig.start();
    let again = post(&gateway, "/once", "claimed-once").await;
    assert_eq!((again.status(), &*again.text()), (200, "done"));
    assert_eq!(again.field("idempotent-replayed"), Some("true"));
    assert_eq!(rig.origin.requests().len(), 1);
}

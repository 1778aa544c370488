//! The gateway as its operator has it: a program, a file, an admin listener. It can be killed.

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, header};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::{self, Instant};

use crate::{
    error::Error,
    http::{Answer, Client},
    options::{Break, Storage},
};

const YAML: &str = include_str!("gateway.yaml");
const TOPIC: &str = "orders";
/// Added while the gateway runs.
const ANALYTICS: &str = "  - { name: analytics, topic: orders, from: latest, order: none }\n";
/// So long it may take to be ready, also in a debug build on a busy machine.
const START: Duration = Duration::from_mins(1);

/// Where everybody is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) web: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) orders: SocketAddr,
    pub(crate) inventory: SocketAddr,
    pub(crate) payment: SocketAddr,
    pub(crate) fulfillment: SocketAddr,
}

/// The program and the folder it works in.
#[derive(Debug)]
pub(crate) struct Gateway {
    program: PathBuf,
    folder: PathBuf,
    yaml: String,
    admin: SocketAddr,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

/// The configuration of this run: with these ports, and with what is to be broken.
fn yaml(at: &Addresses, broken: Option<Break>) -> String {
    let ports = [
        ("127.0.0.1:7080", at.web),
        ("127.0.0.1:7081", at.admin),
        ("127.0.0.1:7101", at.orders),
        ("127.0.0.1:7102", at.inventory),
        ("127.0.0.1:7103", at.payment),
        ("127.0.0.1:7104", at.fulfillment),
    ];
    let mut yaml = YAML.to_owned();
    for (written, address) in ports {
        yaml = yaml.replace(written, &address.to_string());
    }
    if broken == Some(Break::Idempotency) {
        let is_kept = |line: &&str| !line.trim_start().starts_with("idempotency:");
        yaml = yaml.lines().filter(is_kept).flat_map(|line| [line, "\n"]).collect();
    }
    yaml
}

/// The program that was built with the example. Under cargo it is built first, or found up to date.
pub(crate) fn program() -> Result<PathBuf, Error> {
    let example = env::current_exe()?;
    // target/PROFILE/examples/store
    let folder = example.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let program = folder.join("sluice");
    if let Some(cargo) = env::var_os("CARGO") {
        let profile = match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--bin", "sluice", "--profile", profile])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()?;
        if !built.success() {
            return Err(Error::Setup("the gateway does not build".into()));
        }
    }
    if program.is_file() {
        return Ok(program);
    }
    let missing = format!("{} is missing: `cargo build --release` makes it", program.display());
    Err(Error::Setup(missing))
}

// === impl Gateway ===

impl Gateway {
    /// Writes the configuration; nothing runs yet.
    pub(crate) fn new(
        program: PathBuf,
        folder: &Path,
        at: &Addresses,
        mut environment: Vec<(String, String)>,
        (storage, broken): (Storage, Option<Break>),
    ) -> Result<Self, Error> {
        if storage == Storage::Lossy {
            environment.push(("SLUICE_TEST_STORAGE".into(), "lossy".into()));
        }
        if broken == Some(Break::Sync) {
            let mutation = "acknowledge-before-the-sync".into();
            environment.push(("SLUICE_TEST_MUTATION".into(), mutation));
        }
        let (folder, admin, yaml) = (folder.to_owned(), at.admin, yaml(at, broken));
        let gateway = Self { program, folder, yaml, admin, environment, child: None };
        fs::write(gateway.file(), &gateway.yaml)?;
        Ok(gateway)
    }

    /// `sluice run`; comes back when it is ready.
    pub(crate) async fn start(&mut self) -> Result<(), Error> {
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let child = Command::new(&self.program)
            .args(["run", "-c"])
            .arg(self.file())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        let until = Instant::now() + START;
        while Instant::now() < until {
            if self.ask(Method::GET, "/readyz", "").await.is_ok_and(|it| it.status.is_success()) {
                return Ok(());
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                let said = fs::read_to_string(self.log()).unwrap_or_default();
                return Err(Error::Setup(format!("the gateway ended, {status}:\n{said}")));
            }
            time::sleep(Duration::from_millis(10)).await;
        }
        Err(Error::Setup(format!("the gateway is not ready, see {}", self.log().display())))
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Lets it drain.
    pub(crate) async fn stop(&mut self) -> io::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::INT)?;
        }
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if child.try_wait()?.is_some() {
                self.child = None;
                return Ok(());
            }
            time::sleep(Duration::from_millis(20)).await;
        }
        self.kill()
    }

    /// Adds the subscription `analytics` to the file, and says so.
    pub(crate) async fn add_analytics(&mut self) -> Result<(), Error> {
        self.yaml = self.yaml.replacen("\ntelemetry:", &format!("{ANALYTICS}\ntelemetry:"), 1);
        fs::write(self.file(), &self.yaml)?;
        self.expect(Method::POST, "/v1/reload", "").await.map(drop)
    }

    /// Starts a job that delivers all there is once more, to this subscription. Its path.
    pub(crate) async fn replay_to(&self, subscription: &str) -> Result<String, Error> {
        let asked = serde_json::json!({ "subscription": subscription, "from": "earliest" });
        let path = format!("/v1/topics/{TOPIC}/replay");
        let answer = self.expect(Method::POST, &path, &asked.to_string()).await?;
        Ok(format!("/v1/jobs/{}", answer["id"].as_str().unwrap_or_default()))
    }

    /// How many events nobody took, of this subscription.
    pub(crate) async fn dead_letters(&self, subscription: &str) -> Result<u64, Error> {
        let mut count = 0;
        let mut after = String::new();
        loop {
            let path = format!("/v1/subscriptions/{subscription}/dead-letters?limit=100{after}");
            let answer = self.expect(Method::GET, &path, "").await?;
            let Some(letters) = answer["dead_letters"].as_array() else { return Ok(count) };
            count += letters.len() as u64;
            let Some(last) = letters.last().and_then(|letter| letter["id"].as_u64()) else {
                return Ok(count);
            };
            after = format!("&after={last}");
        }
    }

    /// Asks the admin listener; anything but a success is an error.
    pub(crate) async fn expect(
        &self,
        method: Method,
        path: &str,
        body: &str,
    ) -> Result<Value, Error> {
        let answer = self.ask(method, path, body).await?;
        if answer.status.is_success() {
            return Ok(answer.json());
        }
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        Err(Error::Setup(format!("{path}: {}: {said}", answer.status)))
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> Result<Answer, Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Bytes::copy_from_slice(body.as_bytes()))
            .map_err(|error| Error::Setup(error.to_string()))?;
        Ok(Client::new(self.admin).send(request).await?)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("gateway.yaml")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("gateway.log")
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It must not outlive the example, however that ends.
        drop(self.kill());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Addresses {
            web: at(1),
            admin: at(2),
            orders: at(3),
            inventory: at(4),
            payment: at(5),
            fulfillment: at(6),
        }
    }

    #[test]
    fn each_port_of_the_file_is_replaced() {
        let yaml = yaml(&addresses(), None);
        for port in 1..=6 {
            assert!(yaml.contains(&format!("127.0.0.1:{port}")), "{port}");
        }
        assert!(!yaml.contains("127.0.0.1:7"), "{yaml}");
    }

    #[test]
    fn without_idempotency_only_that_line_is_missing() {
        let (all, less) = (yaml(&addresses(), None), yaml(&addresses(), Some(Break::Idempotency)));
        assert_eq!(all.lines().count(), less.lines().count() + 1);
        assert!(!less.contains("idempotency: {"));
    }

    #[test]
    fn there_is_a_place_for_analytics() {
        assert_eq!(YAML.matches("\ntelemetry:").count(), 1);
    }
}

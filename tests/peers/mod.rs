//! Real peers for the tests: processes that are started here, and only these are ended.
#![allow(dead_code)] // each test file uses its own part

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for a peer to be there.
const STARTS: Duration = Duration::from_secs(60);

/// Waits until `condition` holds; the test fails after `limit`.
#[track_caller]
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < until, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A Mosquitto broker with persistence in a folder of its own.
pub struct Broker {
    pub port: u16,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Broker {
    /// Configures a broker without starting it; `extra` are further lines of its configuration.
    pub fn prepare(extra: &str) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let access = if extra.contains("password_file") { "" } else { "allow_anonymous true\n" };
        let config = format!(
            "listener {port} 127.0.0.1\n{access}persistence true\npersistence_location {}/\n\
             autosave_interval 1\nmax_queued_messages 0\nlog_dest stderr\n\
             log_type error\nlog_type warning\nlog_type notice\nlog_type subscribe\n{extra}\n",
            dir.path().display()
        );
        let config = config.replace("password_file ", &format!("password_file {}/", dir.path().display()));
        std::fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        if is_root() {
            // Mosquitto would give up root, and then could not write its folder.
            let conf = dir.path().join("mosquitto.conf");
            let text = std::fs::read_to_string(&conf).unwrap();
            std::fs::write(&conf, format!("user root\n{text}")).unwrap();
        }
        Self { port, dir, child: None }
    }

    /// Configures a broker by this text, whose listeners the caller chose; `port` is the one that is waited for.
    pub fn configured(text: &str, port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let user = if is_root() { "user root\n" } else { "" };
        let config = format!("{user}log_dest stderr\nlog_type all\n{text}");
        std::fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        Self { port, dir, child: None }
    }

    pub fn started(extra: &str) -> Self {
        let mut broker = Self::prepare(extra);
        broker.start();
        broker
    }

    /// A broker that wants this user and password.
    pub fn with_password(user: &str, password: &str) -> Self {
        Self::with_password_and(user, password, "")
    }

    /// The same, with further lines of its configuration.
    pub fn with_password_and(user: &str, password: &str, extra: &str) -> Self {
        let mut broker = Self::prepare(&format!("password_file passwords\n{extra}"));
        let file = broker.dir.path().join("passwords");
        let done = Command::new("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(&file)
            .args([user, password])
            .status()
            .expect("mosquitto_passwd is installed by deploy/setup.sh");
        assert!(done.success());
        broker.start();
        broker
    }

    pub fn start(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let program = ["/usr/sbin/mosquitto", "mosquitto"].into_iter().find(|p| Path::new(p).exists());
        let child = Command::new(program.unwrap_or("mosquitto"))
            .arg("-c")
            .arg(self.dir.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mosquitto is installed by deploy/setup.sh");
        self.child = Some(child);
        let port = self.port;
        wait_for("the broker", STARTS, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Ends it in order: it saves its sessions.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            send(&child, "TERM");
            child.wait().unwrap();
        }
    }

    /// Sends it a signal: STOP makes it hang, CONT go on.
    pub fn signal(&self, name: &str) {
        send(self.child.as_ref().expect("the broker runs"), name);
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn send(child: &Child, signal: &str) {
    let done = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(done.unwrap().success());
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().map(|o| o.stdout).unwrap_or_default();
    id.starts_with(b"0")
}

/// A `mosquitto_sub` with a session that outlives connections; collects `topic payload` lines.
pub struct Subscriber {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Subscriber {
    /// Subscribes and waits until the broker says that it knows the subscription.
    pub fn start(broker: &Broker, topic: &str, extra: &[&str]) -> Self {
        let id = format!("sub-{}", uuid::Uuid::new_v4());
        let mut child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &broker.port.to_string(), "-t", topic])
            .args(["-c", "-q", "1", "-i", &id, "-v", "-k", "5"])
            .args(extra)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub is installed by deploy/setup.sh");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (out, kept) = (child.stdout.take().unwrap(), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        let subscriber = Self { child, lines };
        wait_for("the subscription", STARTS, || broker.log().contains(&format!("{id} 1 {topic}")));
        subscriber
    }

    /// Messages so far: topic and payload.
    pub fn messages(&self) -> Vec<(String, String)> {
        let lines = self.lines.lock().unwrap();
        let message = |line: &String| {
            let (topic, payload) = line.split_once(' ')?;
            payload.starts_with('{').then(|| (topic.to_owned(), payload.to_owned()))
        };
        lines.iter().filter_map(message).collect()
    }

    /// Payloads on topics that end so, as JSON.
    pub fn json(&self, ending: &str) -> Vec<serde_json::Value> {
        let fits = |(topic, payload): (String, String)| {
            topic.ends_with(ending).then(|| serde_json::from_str(&payload).unwrap())
        };
        self.messages().into_iter().filter_map(fits).collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority that signs certificates, made by the openssl program in a folder of its own.
pub struct Authority {
    dir: tempfile::TempDir,
}

/// A certificate and its private key, as files.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self { dir: tempfile::tempdir().unwrap() };
        let kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let names = ["-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"];
        authority.openssl(&[&["req", "-x509"][..], &kind, &names].concat());
        authority
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for `name`; `san` as `DNS:host` or `IP:address`. With -1 day it has expired.
    pub fn sign(&self, name: &str, san: &str, days: i32) -> Identity {
        let [key, csr, certificate, extensions] =
            ["key", "csr", "pem", "ext"].map(|ending| format!("{name}.{ending}"));
        std::fs::write(self.dir.path().join(&extensions), format!("subjectAltName={san}\n")).unwrap();
        let subject = format!("/CN={name}");
        let kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        self.openssl(&[&["req"][..], &kind, &["-subj", &subject, "-keyout", &key, "-out", &csr]].concat());
        let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", &extensions];
        let days = days.to_string();
        self.openssl(
            &[&["x509", "-req", "-in", &csr][..], &by, &["-days", &days, "-out", &certificate]].concat(),
        );
        Identity { certificate: self.dir.path().join(certificate), key: self.dir.path().join(key) }
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut openssl = Command::new("openssl");
        let done = openssl.args(arguments).current_dir(self.dir.path()).output();
        let done = done.expect("openssl is installed by deploy/setup.sh");
        assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// Where the test program may start itself again.
pub fn own_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

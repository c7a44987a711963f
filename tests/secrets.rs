//! No secret gets out: the real program, with everything in its log, a broker by TLS with password and client key, and
//! a camera with a password. Neither log, nor journal, nor topics, nor `check` may show any of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod peers;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use peers::{Authority, Broker, Identity, Subscriber};

const LONG: Duration = Duration::from_secs(60);
const PASSWORD: &str = "Zwiebelfisch-7301";
const CAMERA_PASSWORD: &str = "Kaltschale-4417";

struct Box {
    folder: tempfile::TempDir,
    config: PathBuf,
    /// What must not be seen: both passwords and each line of the key.
    secrets: Vec<String>,
}

fn put(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

impl Box {
    fn new(port: u16, ca: &Authority, client: &Identity) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // As LoadCredential= of the unit does.
        std::fs::create_dir(at("credentials")).unwrap();
        let login = format!("user = \"line-box\"\npassword = \"{PASSWORD}\"\n");
        put(&at("credentials/mqtt.toml"), &login, 0o400);
        let key = std::fs::read_to_string(&client.key).unwrap();
        put(&at("credentials/mqtt.key"), &key, 0o440);
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.onnx");
        let text = format!(
            r#"
            [modbus]
            listen = "127.0.0.1:0"
            [journal]
            dir = "journal"
            [runtime]
            providers = ["cpu"]
            [mqtt]
            host = "localhost"
            port = {port}
            topic_prefix = "enterprise/site/area/line"
            credentials_file = "credential:mqtt.toml"
            [mqtt.tls]
            ca_file = "{ca}"
            client_certificate_file = "{certificate}"
            client_key_file = "credential:mqtt.key"
            [[station]]
            name = "s1"
            trigger = {{ source = "clock", period_ms = 3000 }}
            deadline_ms = 3000
            gate = {{ time_to_gate_ms = 3020, plc_poll_ms = 10, plc_scan_ms = 10 }}
            [[station.view]]
            name = "top"
            model = "{model}"
            camera = {{ kind = "simulated", width = 64, height = 64 }}
            [[station]]
            name = "s2"
            trigger = {{ source = "free_run" }}
            deadline_ms = 3000
            gate = {{ time_to_gate_ms = 3020, plc_poll_ms = 10, plc_scan_ms = 10 }}
            [[station.view]]
            name = "side"
            model = "{model}"
            camera = {{ kind = "opencv", url = "rtsp://viewer:{CAMERA_PASSWORD}@127.0.0.1:{nobody}/1" }}
            "#,
            ca = ca.file().display(),
            certificate = client.certificate.display(),
            model = model.display(),
            nobody = peers::free_port(),
        );
        let config = at("inspectd.toml");
        put(&config, &text, 0o640);
        let lines = key.lines().filter(|line| !line.starts_with("--")).map(str::to_owned);
        let secrets: Vec<_> =
            [PASSWORD.to_owned(), CAMERA_PASSWORD.to_owned()].into_iter().chain(lines).collect();
        assert!(secrets.len() > 3, "the key has lines");
        Self { folder, config, secrets }
    }

    fn program(&self) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_inspectd"));
        program.env("CREDENTIALS_DIRECTORY", self.folder.path().join("credentials"));
        program.env_remove("NOTIFY_SOCKET").args(["--log", "trace"]);
        program
    }

    fn check(&self) -> Output {
        self.program().arg("check").arg(&self.config).output().unwrap()
    }

    #[track_caller]
    fn shows_none(&self, where_: &str, bytes: &[u8]) {
        for secret in &self.secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{where_} shows a secret:\n{}", String::from_utf8_lossy(bytes));
        }
    }

    /// Every file below a folder.
    fn shows_none_below(&self, folder: &Path) -> usize {
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files += self.shows_none_below(&path);
            } else {
                self.shows_none(&path.display().to_string(), &std::fs::read(&path).unwrap());
                files += 1;
            }
        }
        files
    }
}

#[test]
fn no_secret_is_in_the_log_the_journal_or_a_topic() {
    let ca = Authority::new();
    let shown = ca.sign("broker", "DNS:localhost,IP:127.0.0.1", 1);
    let client = ca.sign("line-box", "DNS:line-box", 1);
    let broker = Broker::with_password_and(
        "line-box",
        PASSWORD,
        &format!(
            "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
            ca.file().display(),
            shown.certificate.display(),
            shown.key.display()
        ),
    );
    let inspectd = Box::new(broker.port, &ca, &client);
    let (authority, certificate, key) = (
        ca.file().display().to_string(),
        client.certificate.display().to_string(),
        client.key.display().to_string(),
    );
    let options =
        ["--cafile", &authority, "--cert", &certificate, "--key", &key, "-u", "line-box", "-P", PASSWORD];
    let reader = Subscriber::start(&broker, "#", &options);
    let log = inspectd.folder.path().join("log");
    let mut child = inspectd
        .program()
        .arg("run")
        .arg("--config")
        .arg(&inspectd.config)
        .stdout(std::fs::File::create(&log).unwrap())
        .stderr(std::fs::File::options().append(true).open(&log).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let came = || {
        let lost = reader.json("s2/state").iter().any(|s| s["ready"] == false && !s["detail"].is_null());
        lost && !reader.json("s1/inspection").is_empty()
    };
    let until = std::time::Instant::now() + LONG;
    while !came() && std::time::Instant::now() < until && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let told = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap();
    let ended = child.wait().unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(
        came() && told.success() && ended.success(),
        "a part, and a camera that is away: {ended}\n{text}"
    );
    assert!(text.contains("TRACE") || text.contains("DEBUG"), "the log holds everything");
    assert!(text.contains("connected to the MQTT broker"), "{text}");
    inspectd.shows_none("the log", text.as_bytes());
    for (topic, payload) in reader.messages() {
        inspectd.shows_none(&topic, payload.as_bytes());
    }
    assert!(inspectd.shows_none_below(&inspectd.folder.path().join("journal")) > 0);
}

#[test]
fn check_finds_what_is_wrong_with_secrets_and_shows_none() {
    let ca = Authority::new();
    let client = ca.sign("line-box", "DNS:line-box", 1);
    let inspectd = Box::new(1, &ca, &client);
    let good = inspectd.check();
    let all = |output: &Output| [&output.stdout[..], &output.stderr[..]].concat();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&all(&good)));
    inspectd.shows_none("check", &all(&good));

    let at = |name: &str| inspectd.folder.path().join("credentials").join(name);
    let key = std::fs::read_to_string(&client.key).unwrap();
    let toml = std::fs::read_to_string(&inspectd.config).unwrap();
    let wrongs: [(PathBuf, String, u32, &str); 6] = [
        (at("mqtt.toml"), format!("user = \"line-box\"\npassword = {PASSWORD}\n"), 0o400, "credentials_file"),
        (at("mqtt.toml"), format!("{PASSWORD}\n"), 0o444, "chmod 600"),
        (at("mqtt.key"), key.replace("\nM", "\n!"), 0o400, "client_key_file"),
        (at("mqtt.key"), key[..key.len() / 2].to_owned(), 0o400, "client_key_file"),
        (inspectd.config.clone(), toml.replace("rtsp://", "http://"), 0o640, "url"),
        (inspectd.config.clone(), toml.replace("url = \"", "url = "), 0o640, "line"),
    ];
    for (path, text, mode, expected) in wrongs {
        let kept = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        put(&path, &text, mode);
        let output = inspectd.check();
        let told = all(&output);
        assert!(!output.status.success() && String::from_utf8_lossy(&told).contains(expected), "{expected}");
        inspectd.shows_none("check", &told);
        std::fs::remove_file(&path).unwrap();
        put(&path, &String::from_utf8(kept).unwrap(), 0o400);
    }
}

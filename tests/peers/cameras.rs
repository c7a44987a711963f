//! Cameras for the tests: processes that are started here, and only these are ended.

#![allow(dead_code)] // each test file uses its own part

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use inspectd::camera::calls::Availability;
use inspectd::camera::thread::CameraHandle;

const FAKE_CAMERA: &str = "arv-fake-gv-camera-0.8";
/// A camera that could not get its port ends within this time.
const STARTS: Duration = Duration::from_secs(30);
/// Nothing that is waited for may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says loudly that a test does not run.
pub fn skipped(why: &str) {
    // Past the capture of the test's output.
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: {why} ***");
}

/// Waits until a camera is as it should be.
pub fn wait_for(handle: &CameraHandle, what: &str, is: impl Fn(&Availability) -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is(&handle.availability()) {
        assert!(Instant::now() < until, "waited in vain for {what}: {:?}", handle.availability());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether this program can be run.
pub fn is_there(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

/// Aravis' fake GigE Vision camera on loopback, with a serial number of its own.
pub struct FakeGige {
    pub serial: String,
    lost_permille: u32,
    child: Option<Child>,
    // GigE Vision has one port: only one test on a machine has the camera.
    _lock: File,
}

impl FakeGige {
    /// Starts one that loses so many of a thousand packets; none, said loudly, if the program is missing.
    pub fn start(lost_permille: u32) -> Option<Self> {
        if !is_there(FAKE_CAMERA) {
            skipped(&format!("no {FAKE_CAMERA}: deploy/setup.sh installs it"));
            return None;
        }
        let lock = File::create(std::env::temp_dir().join("inspectd-gige-port.lock")).unwrap();
        lock.lock().unwrap();
        let serial = format!("T{}", std::process::id());
        let mut camera = Self { serial, lost_permille, child: None, _lock: lock };
        camera.restart();
        Some(camera)
    }

    /// The id by which it is opened.
    pub fn id(&self) -> String {
        format!("Aravis-Fake-{}", self.serial)
    }

    /// Starts it again after [`kill`](Self::kill), and waits until it is found.
    pub fn restart(&mut self) {
        let until = Instant::now() + STARTS;
        loop {
            assert!(Instant::now() < until, "{FAKE_CAMERA} did not come up: is UDP port 3956 taken?");
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                let lost = self.lost_permille.to_string();
                let child = Command::new(FAKE_CAMERA)
                    .args(["-i", "127.0.0.1", "-s", &self.serial, "-r", &lost])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn();
                self.child = Some(child.unwrap());
            }
            if inspectd::camera::aravis::list::cameras().iter().any(|c| c.serial == self.serial) {
                return;
            }
        }
    }

    /// Pulls its plug.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for FakeGige {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A real RTSP server on loopback, by GStreamer.
pub struct RtspServer {
    port: u16,
    login: Vec<String>,
    child: Option<Child>,
}

impl RtspServer {
    /// Starts one that lets in whoever comes, or only this user with this password. None, said loudly, if its
    /// packages are missing.
    pub fn start(login: &[&str]) -> Option<Self> {
        let login = login.iter().map(|s| (*s).to_owned()).collect();
        let mut server = Self { port: 0, login, child: None };
        if let Err(why) = server.spawn() {
            skipped(&format!("no RTSP server: {why}: deploy/setup.sh installs it"));
            return None;
        }
        Some(server)
    }

    /// Where its picture is.
    pub fn url(&self, login: &str) -> String {
        format!("rtsp://{login}127.0.0.1:{}/line", self.port)
    }

    /// Starts it again after [`kill`](Self::kill), on the same port.
    pub fn restart(&mut self) {
        let until = Instant::now() + STARTS;
        while let Err(why) = self.spawn() {
            assert!(Instant::now() < until, "{why}");
        }
    }

    fn spawn(&mut self) -> Result<(), String> {
        // Debian's own Python has Debian's packages.
        let mut child = Command::new("/usr/bin/python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/rtsp_server.py"))
            .arg(self.port.to_string())
            .args(&self.login)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut line = String::new();
        // At its end the pipe closes: this cannot wait for ever for a server that does not start.
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.child = Some(child);
        let port = line.trim().parse();
        self.port = port.map_err(|_| "python3-gi or gir1.2-gst-rtsp-server-1.0 is missing".to_owned())?;
        Ok(())
    }

    /// Stops it without closing anything: it falls silent.
    pub fn freeze(&mut self) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    }

    /// Pulls its plug.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for RtspServer {
    fn drop(&mut self) {
        self.kill();
    }
}

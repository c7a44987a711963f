//! A network of one test's own, which loses packets on their way.
//!
//! The test starts itself once more in a network namespace: there is nothing but its own loopback, so what is
//! lost there is lost to nobody else, and neither end knows of it. A packet is dropped as it arrives: dropped as
//! it leaves, the system would tell the sender.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::cameras::{is_there, skipped};

/// Set in the process that has a network of its own.
const INSIDE: &str = "INSPECTD_TEST_NETWORK";
const IP: &str = "ip";
/// No user but root has its folder in PATH.
const NFT: &str = "/usr/sbin/nft";
/// What nftables is told; PERMILLE stands for the loss. Control of the camera is left alone: it is asked anew.
const RULES: &str = "
    table inet wire {
        counter came {}
        counter lost {}
        chain arrives {
            type filter hook input priority 0
            meta l4proto != udp accept
            udp sport 3956 accept
            udp dport 3956 accept
            counter name came
            numgen random mod 1000 < PERMILLE counter name lost drop
        }
    }
";

/// The loopback of this process and those that it starts.
pub struct Network(());

impl Network {
    /// Runs the test of this name in a network of its own. There it gets the network; outside None, when the test
    /// has passed in there, or cannot run, which is said loudly.
    pub fn alone(test: &str) -> Option<Self> {
        if std::env::var_os(INSIDE).is_some() {
            run(IP, &["link", "set", "lo", "up"], "");
            return Some(Self(()));
        }
        if let Some(program) = [IP, NFT].into_iter().find(|program| !is_there(program)) {
            skipped(&format!("no {program}: deploy/setup.sh installs it"));
            return None;
        }
        // As root, or as a user who is root in there alone.
        let allowed = |how: &&str| {
            let mut tried = Command::new("unshare");
            tried.args([how, "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let Some(how) = ["-n", "-rn"].into_iter().find(allowed) else {
            skipped("no network of its own: neither root nor allowed to make user namespaces");
            return None;
        };
        let output = Command::new("unshare")
            .arg(how)
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(INSIDE, "yes")
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        // One that does not exist would have passed as well.
        assert!(output.status.success() && said.contains("1 passed"), "see above; {}", output.status);
        None
    }

    /// From now on it loses so many of a thousand packets.
    pub fn lose(&self, permille: u32) {
        run(NFT, &["-f", "-"], &RULES.replace("PERMILLE", &permille.to_string()));
    }

    /// It loses none any more. How many packets came and were lost since [`lose`](Self::lose).
    pub fn heal(&self) -> [u64; 2] {
        let counted = ["came", "lost"].map(|name| {
            let text = run(NFT, &["--json", "list", "counter", "inet", "wire", name], "");
            let said: serde_json::Value = serde_json::from_str(&text).unwrap();
            let counter = said["nftables"].as_array().unwrap().iter().find_map(|item| item.get("counter"));
            counter.unwrap()["packets"].as_u64().unwrap()
        });
        run(NFT, &["delete", "table", "inet", "wire"], "");
        counted
    }
}

fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
